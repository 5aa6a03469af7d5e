"""A recording of model calls: JSON lines, one chat completion body each, told apart by agent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kvflow_agents.errors import HintError
from kvflow_agents.hints import decode_caller
from kvflow_agents.prompt_parts import prompt_of

NAME_CHARS = 40
# Whatever holds a digit may change from call to call.
_VOLATILE = re.compile(r"\S*\d\S*")


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call of a recording: who made it, and the request's body."""

    agent: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no call, counted from 1; the last line may be cut short."""

    number: int
    reason: str
    is_cut_short: bool = False
    is_hashed: bool = False
    """Whether it is one of a trace, as `kvflow record` writes them."""


def read_calls(lines: Iterable[bytes]) -> Iterator[RecordedCall | BadLine]:
    """The calls of a recording, in its order, and the lines that are none; empty lines are not."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        body: Any = None
        try:
            body = json.loads(line)
            prompt_of(body)
            yield RecordedCall(caller(body), body)
        except (ValueError, RecursionError) as error:
            # Only the last line of a file can lack its end.
            is_cut_short = not line.endswith(b"\n") and isinstance(error, ValueError)
            is_hashed = isinstance(body, Mapping) and "hash_ids" in body
            yield BadLine(number, str(error), is_cut_short and not _is_json(line), is_hashed)


def caller(body: Mapping[str, Any]) -> str:
    """Who made a request: its `agent`, its hint's, or else the model and how its prompt begins."""
    agent = body.get("agent")
    if isinstance(agent, str) and agent:
        return agent
    params = body.get("custom_params")
    try:
        hint = decode_caller(params)
    except HintError:
        hint = None
    if hint is not None and hint.agent is not None:
        return agent_of_app(hint.agent, hint.app)
    return _name_of_prompt(body)


def agent_of_app(agent: str, app: str | None) -> str:
    """What an agent is called where several applications may have one of its name."""
    return agent if app is None else f"{agent} of {app[:8]}"


def _name_of_prompt(body: Mapping[str, Any]) -> str:
    model = body.get("model") or "model"
    system = next((part.text for part in prompt_of(body) if part.is_fixed and not part.is_tool), "")
    words = " ".join(_VOLATILE.sub("#", system[: 8 * NAME_CHARS]).split())[: 4 * NAME_CHARS]
    if not words:
        return str(model)
    digest = hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=2).hexdigest()
    return f"{model}: {words[:NAME_CHARS]} ({digest})"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
