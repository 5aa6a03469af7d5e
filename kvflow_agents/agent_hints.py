"""What NVIDIA Dynamo's clients say of their calls: `nvext.agent_hints`, and sessions in headers.

As in the documentation of Dynamo 1.6 (agent hints, session IDs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvflow_agents.errors import HintError
from kvflow_agents.hints import Hint

EXTENSION_FIELD = "nvext"
HINTS_FIELD = "agent_hints"
SESSION_HEADER = "X-Dynamo-Session-ID"
PARENT_HEADER = "X-Dynamo-Parent-Session-ID"
FINAL_HEADER = "X-Dynamo-Session-Final"
# Of KV's next use they say nothing: how long the answer will be, in which queue it waits.
IGNORED_FIELDS = ("strict_priority", "osl", "latency_sensitivity")
# Dynamo's i32.
MAX_PRIORITY = 2**31 - 1
HIGHEST_PRIORITY = 10
"""Of ours: somebody who is called again within a second."""
# Dynamo's u32.
MAX_OUTPUT_TOKENS = 2**32 - 1
# Percent; an agent that is less likely called again is not expected to go on.
LEAST_CHANCE = 50


@dataclass(frozen=True, slots=True)
class AgentHints:
    """What of `nvext.agent_hints` means something here."""

    priority: int | None = None
    """Higher is more important."""
    goes_on: bool = False
    """Whether the next prompt of the conversation will begin with this one and its answer."""
    ignored: tuple[str, ...] = ()
    """The names of the fields that mean nothing here; what nobody has documented is `other`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client has seen of the calls of an agent that calls now."""

    output_tokens: int | None = None
    """How long its answers get."""
    goes_on: bool = False
    """Whether its prompts begin with its last prompt and the answer to it."""


NOTHING_SEEN = Seen()


def priority_of(hint: Hint) -> int | None:
    """How soon the caller's KV is needed again: 1 to 10, 0 for never, None if that is not known.

    One less for each doubling of the time until its next call, from 1 s on. What is needed with
    a chance of one half is needed half as often: after twice as long.
    """
    if hint.agent is None:
        return None
    due_ms = hint.forecast.due_ms.get(hint.agent)
    chance = hint.forecast.chance.get(hint.agent, 100)
    if chance == 0:
        return 0
    if due_ms is None:
        return None
    wait_s = due_ms * 100 // chance // 1000
    return max(1, HIGHEST_PRIORITY - wait_s.bit_length())


def encode_agent_hints(hint: Hint, seen: Seen) -> dict[str, Any]:
    """`agent_hints` for a call; what is not known is left out."""
    priority, output_tokens = priority_of(hint), seen.output_tokens
    said: dict[str, Any] = {} if priority is None else {"priority": priority}
    if output_tokens is not None:
        said["osl"] = min(output_tokens, MAX_OUTPUT_TOKENS)
    # What Dynamo computes ahead of a prompt that never comes is wasted.
    if seen.goes_on and hint.forecast.chance.get(hint.agent or "", 0) >= LEAST_CHANCE:
        said["speculative_prefill"] = True
    return said


def encode_session(hint: Hint) -> dict[str, str]:
    """Headers by which the caller is a session of its own inside the workflow's."""
    workflow = _header_value(hint.workflow)
    if hint.agent is None:
        return {SESSION_HEADER: workflow}
    return {
        SESSION_HEADER: _header_value(f"{hint.workflow}:{hint.agent}"),
        PARENT_HEADER: workflow,
    }


def decode_agent_hints(body: object) -> AgentHints | None:
    """What a request's body says, None if it says nothing; HintError if that is malformed."""
    extension = body.get(EXTENSION_FIELD) if isinstance(body, Mapping) else None
    if not isinstance(extension, Mapping) or extension.get(HINTS_FIELD) is None:
        return None
    hints = extension[HINTS_FIELD]
    if not isinstance(hints, Mapping):
        raise HintError("type", f"{HINTS_FIELD} must be an object, not {type(hints).__name__}")
    known = {"priority", "speculative_prefill"}
    names = [name for name, value in hints.items() if name not in known and value is not None]
    ignored = [name if name in IGNORED_FIELDS else "other" for name in names]
    return AgentHints(
        priority=_priority(hints.get("priority")),
        goes_on=_boolean(hints.get("speculative_prefill")),
        ignored=tuple(dict.fromkeys(ignored)),
    )


def _priority(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise HintError("type", f"priority must be an integer, not {type(value).__name__}")
    if not -MAX_PRIORITY - 1 <= value <= MAX_PRIORITY:
        raise HintError("range", f"priority must lie in [{-MAX_PRIORITY - 1}, {MAX_PRIORITY}]")
    return value


def _boolean(value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise HintError("type", f"speculative_prefill must be a boolean, not {value!r:.20}")
    return bool(value)


def _header_value(name: str) -> str:
    """The name itself if a header can hold it, else its hash."""
    if name.isascii() and name.isprintable() and name == name.strip():
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
