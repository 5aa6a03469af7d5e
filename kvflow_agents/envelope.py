"""The `kv_hints` envelope that SGLang and vLLM carry, with the action `kvflow.forecast`.

Its shape is theirs: `sglang/srt/managers/kv_hints.py` of SGLang 0.5.23, and
`vllm/v1/kv_hints/protocol.py` of vLLM's pull request 53423. What the action says is ours
(docs/wire.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvflow_agents.errors import HintError
from kvflow_agents.hints import Hint, decode_body, encode_body

ENVELOPE_FIELD = "kv_hints"
PROTOCOL_VERSION = "0.1"
ACTION_TYPE = "kvflow.forecast"
ACTION_VERSION = "1.0"
SPEAKS = f"{ACTION_TYPE}@{ACTION_VERSION}"
"""What a server that takes forecasts says of itself."""
MAX_ACTIONS = 64

_MAJOR = ACTION_VERSION.partition(".")[0]


def encode_envelope(hint: Hint) -> dict[str, Any]:
    """An envelope with the hint as its only action."""
    action = {
        "action_id": "forecast",
        "action_type": ACTION_TYPE,
        "action_version": ACTION_VERSION,
        "payload": encode_body(hint),
    }
    return {
        "protocol_version": PROTOCOL_VERSION,
        "message_id": f"{hint.workflow}/{hint.forecast.seq}",
        "actions": [action],
    }


def decode_envelope(envelope: object) -> Hint | None:
    """The hint in an envelope, None if it has none; HintError if envelope or hint is malformed.

    Actions of other types are not looked at. Of several forecasts the one of a version that is
    known counts.
    """
    forecasts = [each for each in _actions(envelope) if each.get("action_type") == ACTION_TYPE]
    if not forecasts:
        return None
    known = [each for each in forecasts if _major(each.get("action_version")) == _MAJOR]
    if not known:
        raise HintError("version", f"no {ACTION_TYPE} of the envelope is of version {_MAJOR}")
    if len(known) > 1:
        raise HintError("size", f"the envelope has {len(known)} actions {ACTION_TYPE}")
    return decode_body(known[0].get("payload"))


def has_forecast(envelope: object) -> bool:
    """Whether one of an envelope's actions is ours, of whatever version."""
    return without_forecasts(envelope) is not envelope


def joined(envelope: object, ours: Mapping[str, Any]) -> dict[str, Any] | None:
    """An envelope of others with the actions of ours besides; None if it cannot take them."""
    if not isinstance(envelope, Mapping) or not isinstance(envelope.get("actions"), list):
        return None
    actions = [*envelope["actions"], *ours["actions"]]
    is_known = envelope.get("protocol_version") == ours["protocol_version"]
    if not is_known or has_forecast(envelope) or len(actions) > MAX_ACTIONS:
        return None
    return {**envelope, "actions": actions}


def without_forecasts(envelope: object) -> object:
    """The envelope without our actions; None if nothing else is in it."""
    if not isinstance(envelope, Mapping) or not isinstance(envelope.get("actions"), list):
        return envelope
    actions = envelope["actions"]
    others = [each for each in actions if not _is_forecast(each)]
    if len(others) == len(actions):
        return envelope
    return {**envelope, "actions": others} if others else None


def _actions(envelope: object) -> list[Mapping[str, Any]]:
    if not isinstance(envelope, Mapping):
        raise HintError("type", f"kv_hints must be an object, not {type(envelope).__name__}")
    actions = envelope.get("actions", [])
    if not isinstance(actions, list):
        raise HintError("type", f"actions must be a list, not {type(actions).__name__}")
    if len(actions) > MAX_ACTIONS:
        raise HintError("size", f"the envelope has {len(actions)} actions")
    for each in actions:
        if not isinstance(each, Mapping):
            raise HintError("type", f"an action must be an object, not {type(each).__name__}")
    return actions


def _is_forecast(action: object) -> bool:
    return isinstance(action, Mapping) and action.get("action_type") == ACTION_TYPE


def _major(version: object) -> str:
    if not isinstance(version, str):
        raise HintError("type", f"action_version must be a string, not {type(version).__name__}")
    return version.partition(".")[0]
