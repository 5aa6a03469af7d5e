"""The fields of one line, checked: ours (docs/replay.md) or Mooncake's and its superset's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

VERSION = 1
MOONCAKE_BLOCK_TOKENS = 512
MAX_MS = 10**15
MAX_TOKENS = 10_000_000
MAX_HASHES = 1_000_000
MAX_NAME_CHARS = 256
MAX_HASH = 2**63 - 1

OUR_FIELDS = frozenset(
    ("v", "kind", "id", "at_ms", "latency_ms", "workflow", "agent", "app", "prompt_tokens")
    + ("output_tokens", "hash_ids", "block_tokens", "is_estimated", "usage")
)
MOONCAKE_FIELDS = frozenset(
    ("timestamp", "created_time", "input_length", "input_tokens", "output_length", "output_tokens")
    + ("hash_ids", "session_id", "delay", "delay_ms")
)


class BadField(ValueError):
    """A line's reason for being no call."""


class Fields(NamedTuple):
    """One line in either format."""

    at_ms: float | None
    """None: `delay_ms` after the answer to the session's last call."""
    prompt_tokens: int
    output_tokens: int
    hash_ids: Sequence[int]
    block_tokens: int
    workflow: str | None = None
    agent: str | None = None
    app: str | None = None
    latency_ms: float = 0.0
    delay_ms: float = 0.0
    id: str | None = None
    is_end: bool = False
    is_resumable: bool = False
    is_estimated: bool = False


def fields_of(line: Mapping[str, Any], mooncake_block_tokens: int) -> Fields:
    """The fields of a line; BadField says why it is no call."""
    if "at_ms" in line or "v" in line:
        return _ours(line)
    if "input_length" in line or "input_tokens" in line:
        return _mooncake(line, mooncake_block_tokens)
    raise BadField("neither at_ms nor input_length")


def known_fields(line: Mapping[str, Any]) -> frozenset[str]:
    """The fields that the line's format has."""
    return OUR_FIELDS if "at_ms" in line or "v" in line else MOONCAKE_FIELDS


def _ours(line: Mapping[str, Any]) -> Fields:
    if line.get("v", VERSION) != VERSION:
        raise BadField("another version")
    at_ms = _number(line, "at_ms", MAX_MS)
    workflow = _name(line, "workflow")
    kind = line.get("kind", "call")
    if kind in ("end", "pause"):
        if workflow is None:
            raise BadField("an end without a workflow")
        return Fields(at_ms, 0, 0, (), 0, workflow, is_end=True, is_resumable=kind == "pause")
    if kind != "call":
        raise BadField("another kind")
    return Fields(
        at_ms,
        _count(line, "prompt_tokens", least=1),
        _count(line, "output_tokens", default=0),
        _hashes(line),
        _count(line, "block_tokens", least=1),
        workflow,
        _name(line, "agent"),
        _name(line, "app"),
        _number(line, "latency_ms", MAX_MS, default=0.0),
        id=_name(line, "id"),
        is_estimated=line.get("is_estimated") is True,
    )


def _mooncake(line: Mapping[str, Any], block_tokens: int) -> Fields:
    clock = "timestamp" if line.get("timestamp") is not None else "created_time"
    session, delay = _session(line), "delay" if line.get("delay") is not None else "delay_ms"
    has_clock = line.get(clock) is not None
    if not has_clock and (session is None or line.get(delay) is None):
        raise BadField("no time")
    return Fields(
        _number(line, clock, MAX_MS) if has_clock else None,
        _count(line, "input_length" if "input_length" in line else "input_tokens", least=1),
        _count(line, "output_length" if "output_length" in line else "output_tokens", default=0),
        _hashes(line),
        block_tokens,
        session,
        delay_ms=_number(line, delay, MAX_MS, default=0.0),
    )


def _session(line: Mapping[str, Any]) -> str | None:
    value = line.get("session_id")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_MS:
        return str(value)
    return _name(line, "session_id")


def _count(
    line: Mapping[str, Any], name: str, *, least: int = 0, default: int | None = None
) -> int:
    value = line.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not least <= value <= MAX_TOKENS:
        raise BadField(f"bad {name}")
    return value


def _number(
    line: Mapping[str, Any], name: str, most: float, *, default: float | None = None
) -> float:
    value = line.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadField(f"bad {name}")
    if not 0 <= value <= most:  # nor is NaN
        raise BadField(f"bad {name}")
    return float(value)


def _name(line: Mapping[str, Any], name: str) -> str | None:
    value = line.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS:
        raise BadField(f"bad {name}")
    return value


def _hashes(line: Mapping[str, Any]) -> Sequence[int]:
    value = line.get("hash_ids")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_HASHES:
        raise BadField("bad hash_ids")
    for each in value:
        if type(each) is not int or not 0 <= each <= MAX_HASH:
            raise BadField("bad hash_ids")
    return value
