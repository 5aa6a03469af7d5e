"""Plain HTTP to a kvflow server, and the hints that a workflow would send with it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_body, encode_request

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP, errors included."""

    status: int
    body: Any


@dataclass(frozen=True)
class Completion:
    """What one completion said, and where its prompt was found."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    host_tokens: int


@dataclass(frozen=True)
class Client:
    """Talks to one server; `key` is its API key, `headers` are sent besides."""

    base_url: str
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def get(self, path: str) -> Reply:
        return self.send(path, None)

    def post(self, path: str, body: object) -> Reply:
        return self.send(path, json.dumps(body).encode())

    def send(self, path: str, body: bytes | None) -> Reply:
        headers = {"Content-Type": "application/json", **self.headers}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.base_url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return Reply(answer.status, _json_or_text(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, _json_or_text(error.read()))

    def complete(
        self, prompt: str, *, custom_params: object = None, max_tokens: int = 4
    ) -> Completion:
        """A greedy completion; of the tiny model each character of the prompt is a token."""
        reply = self.post("/v1/completions", completion_body(prompt, custom_params, max_tokens))
        assert reply.status == 200, reply
        usage = reply.body["usage"]
        details = (reply.body.get("sglext") or {}).get("cached_tokens_details") or {}
        return Completion(
            text=reply.body["choices"][0]["text"],
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=(usage["prompt_tokens_details"] or {}).get("cached_tokens", 0),
            host_tokens=details.get("host", 0),
        )

    def generate(self, sampling_params: Mapping[str, Any], **fields: Any) -> Reply:
        """SGLang's own endpoint, which checks `custom_params` least."""
        params = {"max_new_tokens": 2, "temperature": 0, **sampling_params}
        return self.post("/generate", {"text": "hello", "sampling_params": params, **fields})

    def forecast(self, hint: Hint) -> Reply:
        return self.post("/kvflow/forecast", encode_body(hint))

    def status(self) -> Any:
        reply = self.get("/kvflow/status")
        assert reply.status == 200, reply
        return reply.body

    def counts(self) -> dict[str, int]:
        """What the only scheduler counts."""
        (counts,) = self.status()["ranks"]
        assert all(isinstance(count, int) for count in counts.values())
        return dict(counts)

    def counted(self, name: str) -> int:
        return self.counts().get(name, 0)

    def refused(self) -> dict[str, int]:
        return dict(self.status()["refused_hints"])

    def flush(self) -> None:
        """Empty the cache; waits for requests that are still being ended."""
        wait_until(lambda: self.post("/flush_cache", {}).status == 200)


@dataclass
class Run:
    """One run of a workflow, as an adapter would tell of it."""

    name: str
    app: str | None = None
    seq: int = field(default=-1)

    def hint(self, steps: Mapping[str, int | None], agent: str | None = None) -> Hint:
        self.seq += 1
        return Hint(self.name, Forecast(self.seq, steps), agent=agent, app=self.app)

    def params(self, steps: Mapping[str, int | None], agent: str | None = None) -> dict[str, Any]:
        return encode_request(self.hint(steps, agent))

    def done(self) -> Hint:
        self.seq += 1
        return Hint(self.name, Forecast(self.seq, {}, done=True), app=self.app)


def completion_body(prompt: str, custom_params: object, max_tokens: int = 4) -> dict[str, Any]:
    body = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_cached_tokens_details": True,
    }
    return body if custom_params is None else {**body, "custom_params": custom_params}


def chat_body(custom_params: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 4, "custom_params": custom_params}


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "it did not come true within a minute"
        time.sleep(0.1)


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
