"""What the server's OpenAPI document says of `/kvflow/*`: bodies, answers and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from kvflow_agents.call_receipt import Admission, Doubt, Fate, Sums
from kvflow_agents.expected_tokens import TierTokens
from kvflow_agents.foresight import Outcome
from kvflow_agents.hints import (
    MAX_AGENT_BYTES,
    MAX_AGENTS,
    MAX_APP_BYTES,
    MAX_CHANCE,
    MAX_DUE_MS,
    MAX_LORA_BYTES,
    MAX_SEQ,
    MAX_STEPS,
    MAX_WORKFLOW_BYTES,
    REASONS,
    VERSION,
)

Schema = dict[str, Any]
Responses = dict[int | str, Schema]
"""By their status."""


def objects(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """Objects with these properties, and perhaps others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": dict(properties)}


def lists(items: Schema) -> Schema:
    """Lists of such values."""
    return {"type": "array", "items": items}


def maps(values: Schema) -> Schema:
    """Objects with any names and such values."""
    return {"type": "object", "additionalProperties": values}


def nullable(schema: Schema) -> Schema:
    """Such values, and null."""
    return {"anyOf": [schema, {"type": "null"}]}


def integers(most: int | None = None) -> Schema:
    """From 0 on."""
    return {"type": "integer", "minimum": 0} | ({} if most is None else {"maximum": most})


def names(most_bytes: int) -> Schema:
    """Names of so many bytes; a character has at least one."""
    return {"type": "string", "minLength": 1, "maxLength": most_bytes}


def requests(body: Schema) -> Schema:
    """What is added to an operation that takes a body."""
    return {"requestBody": {"required": True, **_json(body)}}


def responses(answer: Schema, errors: Mapping[int, Schema] | None = None) -> Responses:
    """All that an operation answers. `4XX` keeps FastAPI from adding its own, which never come."""
    known = {200: answer, 401: DENIED, 403: DENIED, **(errors or {})}
    said: Responses = {
        status: {"description": WHAT[status], **_json(schema)} for status, schema in known.items()
    }
    return said | {"4XX": {"description": "Refused by SGLang."}}


def _json(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


def _counts(values: type) -> dict[str, Schema]:
    """The properties that a value of counts and flags has as JSON."""
    kinds = get_type_hints(values)
    return {name: {"type": "boolean"} if each is bool else COUNT for name, each in kinds.items()}


WHAT = {
    200: "The answer.",
    400: "Malformed.",
    401: "Without the server's key, if it has one.",
    403: "Not with this key.",
    404: "Unknown.",
    413: "Too large.",
}
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT = integers()

# SGLang's own, as are refused parameters.
DENIED = objects({"error": TEXT})
BAD_PARAMETERS = objects({"message": TEXT, "code": {"const": 400}})
REFUSED = objects({"error": objects({"reason": {"enum": [*REASONS]}, "message": TEXT})})
_NO_WORKFLOW = objects({"error": objects({"reason": {"const": "unknown"}, "message": TEXT})})
# With a line break in its name no route is found.
UNKNOWN: Schema = {"anyOf": [_NO_WORKFLOW, objects({"detail": TEXT})]}

_AGENTS = {"type": "object", "maxProperties": MAX_AGENTS}
FORECAST = objects(
    {
        "v": {"const": VERSION},
        "workflow": names(MAX_WORKFLOW_BYTES),
        "app": nullable(names(MAX_APP_BYTES)),
        "agent": nullable(names(MAX_AGENT_BYTES)),
        "seq": integers(MAX_SEQ),
        "steps": _AGENTS | {"additionalProperties": nullable(integers(MAX_STEPS))},
        "due_ms": _AGENTS | {"additionalProperties": integers(MAX_DUE_MS)},
        "chance": _AGENTS | {"additionalProperties": integers(MAX_CHANCE)},
        "loras": _AGENTS | {"additionalProperties": names(MAX_LORA_BYTES)},
        "changes": FLAG,
        "done": FLAG,
    },
    optional=("app", "agent", "steps", "due_ms", "chance", "loras", "changes", "done"),
)
OUTCOME = objects({"outcome": {"enum": [*get_args(Outcome)]}})

STATUS = objects(
    {
        "version": TEXT,
        "speaks": lists(TEXT),
        "sglang": TEXT,
        "hooks": lists(TEXT),
        "refused_hints": maps(COUNT),
        "heard_forms": maps(COUNT),
        "ignored_fields": maps(COUNT),
        "ranks": lists(maps(COUNT)),
    }
)

_SUMS = objects(_counts(Sums))
_SUMMARY = {
    "workflow": TEXT,
    "app": nullable(TEXT),
    "seq": nullable(COUNT),
    "done": FLAG,
    "known_agents": COUNT,
    "sums": _SUMS,
}
_CALL = {
    "seq": COUNT,
    "hint": {"enum": [*get_args(Fate)]},
    "reason": nullable({"enum": ["newer_heard", "workflow_ended", *get_args(Doubt)]}),
    "forecast_right": nullable(FLAG),
    "predicted_steps": nullable(COUNT),
    "predicted_due_ms": nullable(COUNT),
    "late_ms": nullable({"type": "integer"}),
    **_counts(Admission),
    "wasted_tokens": COUNT,
}
WORKFLOWS = objects({"total": COUNT, "workflows": lists(objects(_SUMMARY))})
_STEPS = {"agent": TEXT, "steps": nullable(COUNT)}
_CALLS = {"sums": _SUMS, "last_calls": lists(objects(_CALL))}
WORKFLOW = objects(
    {
        **_SUMMARY,
        "expected": lists(objects(_STEPS)),
        "agents": lists(objects({**_STEPS, **_CALLS})),
    }
)

_HELD = objects(_counts(TierTokens))
_TENANT = {"tenant": nullable(TEXT)}
_TIER = dict.fromkeys(("tokens", "free", "spent", "ordinary", "expected"), COUNT)
_POOL = {
    **dict.fromkeys(("device", "host"), objects(_TIER)),
    "loading": COUNT,
    "owners": lists(objects({"workflow": TEXT, **_TENANT, **_counts(TierTokens)})),
    "shared": _HELD,
    "uncounted_nodes": COUNT,
}
_AGENT = {
    **_STEPS,
    "due_ms": nullable(COUNT),
    "chance": nullable(COUNT),
    "prefix": nullable(objects(dict.fromkeys(("device", "host", "loading", "gone"), COUNT))),
    "calls": COUNT,
}
# From whom, to whom, how often.
_EDGE: Schema = {"type": "array", "minItems": 3, "maxItems": 3}
_SHOWN = {"workflow": TEXT, **_TENANT, "app": nullable(TEXT), "done": FLAG, "total": COUNT}
VIEW = objects(
    {
        "version": TEXT,
        "server": TEXT,
        "ranks": COUNT,
        "view": objects(
            {
                "pool": objects(_POOL),
                "counters": maps(COUNT),
                "optimum": nullable(maps(NUMBER)),
                "workflows": objects(
                    {
                        "total": COUNT,
                        "workflows": lists(objects({**_SUMMARY, **_TENANT, "held": _HELD})),
                    }
                ),
                "workflow": nullable(
                    objects({**_SHOWN, "agents": lists(objects(_AGENT)), "edges": lists(_EDGE)})
                ),
            }
        ),
    }
)
