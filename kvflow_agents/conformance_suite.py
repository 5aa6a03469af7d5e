"""The conformance suite: what a server that takes forecasts answers, and a runner for any server.

The cases are JSON in `conformance/`; docs/wire.md says what they mean.
"""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from typing import Any, Literal

from kvflow_agents.courier import NoRedirects
from kvflow_agents.servers import Server

SUITES = ("forecasts", "envelopes", "receipts", "forms")
PROMPT = "The capital of France is"
STATUS_PATH = "/kvflow/status"

Level = Literal["must", "should", "may"]


@dataclass(frozen=True, slots=True)
class Case:
    """Steps that follow one another, all of one new workflow."""

    suite: str
    level: Level
    name: str
    steps: tuple[Mapping[str, Any], ...]
    needs_key: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a case; `fault` is None if the server does as it says."""

    case: Case
    fault: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP; `body` is text where it is no JSON."""

    status: int
    body: Any


def load_cases() -> list[Case]:
    """All cases, in their order."""
    cases = []
    for suite in SUITES:
        text = (files("kvflow_agents") / "conformance" / f"{suite}.json").read_text("utf-8")
        document = json.loads(text)
        for case in document["cases"]:
            needs_key = case.get("needs") == "key"
            steps = tuple(case["steps"])
            cases.append(Case(suite, document["level"], case["name"], steps, needs_key))
    return cases


class Runner:
    """Puts cases to one server; at construction OSError if it cannot be reached."""

    def __init__(self, server: Server, *, model: str | None = None, timeout_s: float = 60) -> None:
        """Without `model` it is the first that the server lists."""
        self._server = server
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(NoRedirects)
        self._model = model or self._first_model()
        self._plain_texts: dict[str, str | None] = {}

    def run(self, case: Case) -> Verdict:
        """Put a case to the server; its first step that goes wrong is the fault."""
        names = {
            "{run}": f"conform-{secrets.token_hex(8)}",
            "{model}": self._model,
            "{prompt}": PROMPT,
        }
        for number, step in enumerate(case.steps, 1):
            try:
                fault = self._fault(filled_in(step, names))
            except (OSError, HTTPException) as error:
                fault = f"no answer: {error!r:.200}"
            if fault is not None:
                return Verdict(case, f"step {number}: {fault}")
        return Verdict(case, None)

    def _fault(self, step: Mapping[str, Any]) -> str | None:
        refused_before = self._refused(step)
        reply = self._send(step)
        if reply.status != step["status"]:
            return f"status {reply.status} instead of {step['status']}: {reply.body!r:.200}"
        fault = difference(step["answer"], reply.body) if "answer" in step else None
        if fault is not None:
            return fault
        for name, item in step.get("contains", {}).items():
            found = reply.body.get(name) if isinstance(reply.body, dict) else None
            if not isinstance(found, list) or item not in found:
                return f"{name} is {found!r:.100} and lacks {item!r}"
        if step.get("same_text"):
            text, plain = text_of(reply.body), self._plain_text(step)
            if text is None or text != plain:
                return f"the answer is {text!r:.100}, without a hint {plain!r:.100}"
        # At least: others may send to the server, too.
        if self._refused(step) < refused_before + bool(step.get("refused")):
            return f"no more hints are counted as refused by {step['refused']}"
        return None

    def _refused(self, step: Mapping[str, Any]) -> int:
        """So many hints were refused for the reason that a step is about."""
        if not step.get("refused"):
            return 0
        status = self._send({"method": "GET", "path": STATUS_PATH}).body
        counts = status.get("refused_hints") if isinstance(status, dict) else None
        count = counts.get(step["refused"], 0) if isinstance(counts, dict) else 0
        return count if isinstance(count, int) else 0

    def _plain_text(self, step: Mapping[str, Any]) -> str | None:
        """What the server answers to the step's request without a hint, once that is cached."""
        path = step["path"]
        if path not in self._plain_texts:
            asked = ("model", "prompt", "messages", "max_tokens", "temperature")
            body = {name: value for name, value in step["body"].items() if name in asked}
            plain = {"method": "POST", "path": path, "body": body}
            for _ in range(2):
                self._plain_texts[path] = text_of(self._send(plain).body)
        return self._plain_texts[path]

    def _first_model(self) -> str:
        listed = self._send({"method": "GET", "path": "/v1/models"}).body
        models = listed.get("data") if isinstance(listed, dict) else None
        first = models[0] if isinstance(models, list) and models else None
        return str(first.get("id")) if isinstance(first, dict) else "default"

    def _send(self, step: Mapping[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json", **step.get("headers", {})}
        if self._server.api_key and not step.get("anonymous"):
            headers["Authorization"] = f"Bearer {self._server.api_key}"
        text = step.get("text") if "text" in step else json.dumps(step.get("body"))
        data = None if step["method"] == "GET" else str(text).encode()
        request = urllib.request.Request(
            self._server.root_url + step["path"], data, headers, method=step["method"]
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return Reply(answer.status, _json_or_text(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, _json_or_text(error.read()))


def filled_in(value: Any, names: Mapping[str, str]) -> Any:
    """A step with names for `{run}` and the like, and with what is long made.

    `{"$repeat": [text, n]}` is a text n times, `{"$pad": [text, n]}` a text made n bytes long,
    `{"$agents": n}` an object of n agents, `{"$agents": [n, size]}` of n whose names are that long.
    """
    match value:
        case str():
            for place, name in names.items():
                value = value.replace(place, name)
            return value
        case list():
            return [filled_in(each, names) for each in value]
        case {"$repeat": [text, count]}:
            return text * count
        case {"$pad": [text, size]}:
            text = filled_in(text, names)
            return text + "x" * (size - len(text.encode()))
        case {"$agents": [count, size]}:
            return {f"a{number}".ljust(size, "x"): 1 for number in range(count)}
        case {"$agents": count}:
            return {f"a{number}": 1 for number in range(count)}
        case dict():
            return {name: filled_in(each, names) for name, each in value.items()}
    return value


def difference(wanted: Any, found: Any, where: str = "the answer") -> str | None:
    """How an answer differs from what is wanted of it; more may be in it."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        pairs: Iterable[tuple[Any, Any, Any]] = (
            (name, each, found.get(name)) for name, each in wanted.items()
        )
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = zip(range(len(wanted)), wanted, found, strict=True)
    else:
        is_same = type(wanted) is type(found) and wanted == found
        return None if is_same else f"{where} is {found!r:.200} instead of {wanted!r:.200}"
    faults = (difference(each, of, f"{where}[{name!r}]") for name, each, of in pairs)
    return next((fault for fault in faults if fault is not None), None)


def text_of(body: Any) -> str | None:
    """What a completion or a chat completion says, streamed or not."""
    match body:
        case {"choices": [{"text": str(text)}, *_]}:
            return text
        case {"choices": [{"message": {"content": content}}, *_]}:
            return str(content)
        case str() if body.startswith("data:"):
            return _streamed_text(body)
    return None


def _streamed_text(events: str) -> str | None:
    """What the chunks of a stream say together; None if it did not come to its end."""
    lines = [line.removeprefix("data:").strip() for line in events.splitlines()]
    said = [line for line in lines if line]
    if said[-1] != "[DONE]":
        return None
    text = ""
    for chunk in map(_json_or_text, said[:-1]):
        match chunk:
            case {"choices": [{"text": str(piece)}, *_]}:
                text += piece
            case {"choices": [{"delta": {"content": str(piece)}}, *_]}:
                text += piece
    return text


def _json_or_text(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body if isinstance(body, str) else body.decode("utf-8", "replace")
