"""The forms in which servers take a forecast (docs/wire.md): one for each kind of server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kvflow_agents.agent_hints import (
    EXTENSION_FIELD,
    HINTS_FIELD,
    Seen,
    encode_agent_hints,
    encode_session,
    priority_of,
)
from kvflow_agents.envelope import (
    ENVELOPE_FIELD,
    encode_envelope,
    has_forecast,
    joined,
)
from kvflow_agents.hints import FIELD, Hint, encode_request

PARAMS_FIELD = "custom_params"
PRIORITY_FIELD = "priority"

KVFLOW = "kvflow"
DYNAMO = "dynamo"
NONE = "none"
ASK = "ask"
"""No dialect: the server is asked which it speaks."""


class Additions(NamedTuple):
    """What a dialect adds to a request: fields of its body, headers."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]


Encode = Callable[[Hint, Seen], Additions]
"""Says what is forecast and, if the dialect can, what was seen of the caller."""


def _kvflow(hint: Hint, seen: Seen) -> Additions:
    return Additions({PARAMS_FIELD: encode_request(hint)}, {})


def _kv_hints(hint: Hint, seen: Seen) -> Additions:
    return Additions({ENVELOPE_FIELD: encode_envelope(hint)}, {})


def _dynamo(hint: Hint, seen: Seen) -> Additions:
    agent_hints = encode_agent_hints(hint, seen)
    body = {EXTENSION_FIELD: {HINTS_FIELD: agent_hints}} if agent_hints else {}
    return Additions(body, encode_session(hint))


def _priority(hint: Hint, seen: Seen) -> Additions:
    priority = priority_of(hint)
    return Additions({} if priority is None else {PRIORITY_FIELD: priority}, {})


def _priority_low_first(hint: Hint, seen: Seen) -> Additions:
    priority = priority_of(hint)
    return Additions({} if priority is None else {PRIORITY_FIELD: -priority}, {})


def _none(hint: Hint, seen: Seen) -> Additions:
    return Additions({}, {})


DIALECTS: Mapping[str, Encode] = {
    KVFLOW: _kvflow,
    "kv_hints": _kv_hints,
    DYNAMO: _dynamo,
    "priority": _priority,
    "priority_low_first": _priority_low_first,
    NONE: _none,
}
TAKES_FORECASTS = (KVFLOW, "kv_hints")
"""Their servers are told of what happens without a request, too."""
SAYS_WHAT_WAS_SEEN = (DYNAMO,)


def is_hinted(body: Mapping[str, Any]) -> bool:
    """Whether a request carries a forecast of the application's own."""
    if PARAMS_FIELD not in body and ENVELOPE_FIELD not in body:
        return False
    params = body.get(PARAMS_FIELD)
    is_flat = isinstance(params, Mapping) and FIELD in params
    return is_flat or has_forecast(body.get(ENVELOPE_FIELD))


def added_fields(body: Mapping[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that are new or changed with the additions.

    What the application says itself stays: additions fill objects, and replace nothing. To its
    envelope our action is added.
    """
    if body.keys().isdisjoint(additions):
        return {**additions}
    changed: dict[str, Any] = {}
    for name, value in additions.items():
        there = body.get(name)
        if name not in body or (there is None and value is not None):
            changed[name] = value
        elif name == ENVELOPE_FIELD:
            both = joined(there, value)
            if both is not None:
                changed[name] = both
        elif isinstance(there, Mapping) and isinstance(value, Mapping):
            inner = added_fields(there, value)
            if inner:
                changed[name] = {**there, **inner}
    return changed
