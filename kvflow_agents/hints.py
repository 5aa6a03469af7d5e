"""The hint: a forecast as it travels, version 1 (docs/wire.md).

Two forms carry the same fields. In a chat or completion request they lie flat in
`custom_params` (`kvflow` holds the scalars, `kvflow_steps`, `kvflow_due_ms`, `kvflow_chance` and
`kvflow_loras` what is said of each agent), because SGLang's msgpack transport allows one level of
nesting there. In a body of its own (`POST /kvflow/forecast`) `steps`, `due_ms`, `chance` and
`loras` are fields like the others.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from kvflow_agents.errors import HintError
from kvflow_agents.forecast import Forecast, Steps

VERSION = 1
FIELD = "kvflow"
STEPS_FIELD = "kvflow_steps"
DUE_FIELD = "kvflow_due_ms"
CHANCE_FIELD = "kvflow_chance"
LORAS_FIELD = "kvflow_loras"
# The server's own, whatever a client says here: whose request it is, hint or not; which response
# waits for its receipt; and what its headers and body say of its session.
TENANT_FIELD = "kvflow_tenant"
RECEIPT_FIELD = "kvflow_receipt"
SESSION_FIELD = "kvflow_session"
SCOPE_FIELD = "kvflow_scope"
CONVERSATION_FIELD = "kvflow_conversation"
LAST_FIELD = "kvflow_last"
HINT_FIELDS = (FIELD, STEPS_FIELD, DUE_FIELD, CHANCE_FIELD, LORAS_FIELD)
SERVER_FIELDS = (
    *(TENANT_FIELD, RECEIPT_FIELD),
    *(SESSION_FIELD, SCOPE_FIELD, CONVERSATION_FIELD, LAST_FIELD),
)
REQUEST_FIELDS = (*HINT_FIELDS, *SERVER_FIELDS)
"""All that a door takes off a request; what is right of it goes on again."""

MAX_WORKFLOW_BYTES = 128
MAX_APP_BYTES = 64
MAX_AGENT_BYTES = 256
MAX_LORA_BYTES = 256
MAX_TENANT_BYTES = 64
MAX_AGENTS = 4096
MAX_STEPS = 1_000_000
# A year.
MAX_DUE_MS = 31_536_000_000
MAX_CHANCE = 100
MAX_SEQ = 2**63 - 1
# The names of a whole forecast; 4,096 names of 64 bytes.
MAX_NAMES_BYTES = 262_144

# Control characters, lone surrogates, line and paragraph separators; every script is welcome.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

V = TypeVar("V")

Reason = Literal["version", "type", "name", "range", "size"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Hint(NamedTuple):
    """Who calls, in which workflow of which application, and what the workflow expects next."""

    workflow: str
    forecast: Forecast
    agent: str | None = None
    app: str | None = None
    at_ms: int | None = None
    """When it came to the server, by the server's clock; what a client says here is ignored."""
    tenant: str | None = None
    """Whose it is, as the server has it; what a client says here is ignored."""
    is_answer: bool = False
    """Whether it comes with an answer, as inferred ones do: nobody calls, but the run goes on."""


def encode_request(hint: Hint) -> dict[str, Any]:
    """The hint as entries of a request's `custom_params`: they hold its own mappings."""
    _, steps, _, _, due_ms, chance, loras = hint.forecast
    params: dict[str, Any] = {FIELD: _scalars(hint), STEPS_FIELD: steps}
    if due_ms:
        params[DUE_FIELD] = due_ms
    if chance:
        params[CHANCE_FIELD] = chance
    if loras:
        params[LORAS_FIELD] = loras
    if hint.tenant is not None:
        params[TENANT_FIELD] = hint.tenant
    return params


def encode_body(hint: Hint) -> dict[str, Any]:
    """The hint as a JSON body of its own, with the hint's own mappings."""
    forecast = hint.forecast
    body = _scalars(hint) | {"steps": forecast.steps}
    if forecast.due_ms:
        body["due_ms"] = forecast.due_ms
    if forecast.chance:
        body["chance"] = forecast.chance
    if forecast.loras:
        body["loras"] = forecast.loras
    return body


def decode_request(custom_params: object) -> Hint | None:
    """The hint in a request's `custom_params`, None if it has none; HintError if malformed."""
    if not isinstance(custom_params, Mapping) or FIELD not in custom_params:
        return None
    fields = {
        "steps": custom_params.get(STEPS_FIELD, {}),
        "due_ms": custom_params.get(DUE_FIELD, {}),
        "chance": custom_params.get(CHANCE_FIELD, {}),
        "loras": custom_params.get(LORAS_FIELD, {}),
    }
    return _decode(custom_params[FIELD], fields, tenant_in(custom_params))


def decode_caller(custom_params: object) -> Hint | None:
    """Like `decode_request`, but without what is expected: who calls."""
    if not isinstance(custom_params, Mapping) or FIELD not in custom_params:
        return None
    return _decode(custom_params[FIELD], {}, tenant_in(custom_params))


def tenant_in(custom_params: object) -> str | None:
    """Whose request it is, by its `custom_params`, as the server's door has set them."""
    value = custom_params.get(TENANT_FIELD) if isinstance(custom_params, Mapping) else None
    is_name = isinstance(value, str) and 0 < len(value) <= MAX_TENANT_BYTES and value.isalnum()
    return value if is_name else None


def decode_body(body: object) -> Hint:
    """The hint in a JSON body of its own; HintError if malformed. Unknown fields are ignored."""
    scalars = _mapping("hint", body)
    return _decode(scalars, scalars)


def agent_name(segments: Iterable[str]) -> str:
    """The path of an agent, as a name that any hint accepts: `team/writer`.

    What a name cannot hold (control characters, lone surrogates, a slash inside a segment)
    becomes `_`; a path over the limit loses its outermost segments' characters first.
    """
    path = "/".join(_clean(segment) for segment in segments)
    encoded = path.encode("utf-8")
    return encoded[-MAX_AGENT_BYTES:].decode("utf-8", "ignore") or "_"


def workflow_name(name: str) -> str:
    """The name itself if a hint can hold it, else its hash."""
    encoded = name.encode("utf-8", "surrogatepass")
    if name and name.isprintable() and len(encoded) <= MAX_WORKFLOW_BYTES:
        return name
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def renamed(hint: Hint, rename: Callable[[str], str]) -> Hint:
    """The hint with other names for its workflow, its app and every agent."""
    forecast = hint.forecast
    return hint._replace(
        workflow=rename(hint.workflow),
        app=None if hint.app is None else rename(hint.app),
        agent=None if hint.agent is None else rename(hint.agent),
        forecast=forecast._replace(
            steps={rename(agent): steps for agent, steps in forecast.steps.items()},
            due_ms={rename(agent): due_ms for agent, due_ms in forecast.due_ms.items()},
            chance={rename(agent): chance for agent, chance in forecast.chance.items()},
            # A server knows its adapters by no other name.
            loras={rename(agent): lora for agent, lora in forecast.loras.items()},
        ),
    )


def fitting(steps: Steps) -> Steps:
    """As many of the first agents of `steps` as one hint can hold."""
    if len(steps) * MAX_AGENT_BYTES <= MAX_NAMES_BYTES:
        return steps
    room = MAX_NAMES_BYTES
    fits: dict[str, int | None] = {}
    for agent, count in steps.items():
        room -= len(agent.encode("utf-8", "replace"))
        if room < 0 or len(fits) == MAX_AGENTS:
            break
        fits[agent] = count
    return fits


def fitting_loras(loras: Mapping[str, str], steps: Steps) -> dict[str, str]:
    """The adapters of agents of `steps`, as many as one hint can hold."""
    room = MAX_NAMES_BYTES
    fits: dict[str, str] = {}
    for agent in steps if loras else ():
        lora = loras.get(agent)
        if lora is not None:
            room -= len(lora.encode("utf-8"))
            if room < 0:
                break
            fits[agent] = lora
    return fits


def lora_name(name: str) -> str | None:
    """The name of an adapter itself; None if no hint can hold it."""
    try:
        return _lora(name)
    except HintError:
        return None


def _clean(segment: str) -> str:
    if segment.isprintable() and "/" not in segment:
        return segment
    return "".join("_" if char == "/" or not _is_allowed(char) else char for char in segment)


def _is_allowed(char: str) -> bool:
    return unicodedata.category(char) not in _REFUSED_CATEGORIES


def _scalars(hint: Hint) -> dict[str, Any]:
    workflow, (seq, _, done, changes, *_), agent, app, at_ms, *_ = hint
    scalars: dict[str, Any] = {"v": VERSION, "workflow": workflow, "seq": seq}
    if app is not None:
        scalars["app"] = app
    if agent is not None:
        scalars["agent"] = agent
    if at_ms is not None:
        scalars["at_ms"] = at_ms
    if done:
        scalars["done"] = True
    if changes:
        scalars["changes"] = True
    return scalars


def _decode(fields: object, said: Mapping[str, object], tenant: str | None = None) -> Hint:
    scalars = _mapping(FIELD, fields)
    version = _integer("v", scalars.get("v"), 1, MAX_SEQ)
    if version != VERSION:
        raise HintError("version", f"v is {version}; this server speaks {VERSION}")
    steps = _agents("steps", said.get("steps", {}), _optional_steps)
    return Hint(
        workflow=_name("workflow", scalars.get("workflow"), MAX_WORKFLOW_BYTES),
        app=_optional_name("app", scalars.get("app"), MAX_APP_BYTES),
        agent=_optional_name("agent", scalars.get("agent"), MAX_AGENT_BYTES),
        at_ms=_arrival(scalars.get("at_ms")),
        tenant=tenant,
        forecast=Forecast(
            seq=_integer("seq", scalars.get("seq"), 0, MAX_SEQ),
            steps=steps,
            done=_boolean("done", scalars.get("done", False)),
            changes=_boolean("changes", scalars.get("changes", False)),
            due_ms=_agents("due_ms", said.get("due_ms", {}), _due_ms),
            chance=_agents("chance", said.get("chance", {}), _chance),
            loras=_loras(said.get("loras", {}), steps),
        ),
    )


def _arrival(value: object) -> int | None:
    is_time = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ
    return value if is_time else None  # type: ignore[return-value]


def _agents(what: str, value: object, check: Callable[[object], V]) -> dict[str, V]:
    agents = _mapping(what, value)
    if len(agents) > MAX_AGENTS:
        raise HintError(
            "size", f"{what} has {len(agents)} agents; at most {MAX_AGENTS} are allowed"
        )
    names_bytes = 0
    whose = f"an agent in {what}"
    checked = {}
    for agent, said in agents.items():
        names_bytes += len(_name(whose, agent, MAX_AGENT_BYTES).encode("utf-8"))
        checked[agent] = check(said)
    if names_bytes > MAX_NAMES_BYTES:
        raise HintError("size", f"the names in {what} take {names_bytes} bytes")
    return checked


def _loras(value: object, steps: Steps) -> dict[str, str]:
    loras = _agents("loras", value, _lora)
    if not loras.keys() <= steps.keys():
        raise HintError("name", "loras has an agent that steps does not name")
    names_bytes = sum(len(lora.encode("utf-8")) for lora in loras.values())
    if names_bytes > MAX_NAMES_BYTES:
        raise HintError("size", f"the adapters in loras take {names_bytes} bytes")
    return loras


def _lora(value: object) -> str:
    return _name("an adapter in loras", value, MAX_LORA_BYTES)


def _optional_steps(value: object) -> int | None:
    return None if value is None else _integer("steps-to-execution", value, 0, MAX_STEPS)


def _due_ms(value: object) -> int:
    return _integer("a time in due_ms", value, 0, MAX_DUE_MS)


def _chance(value: object) -> int:
    return _integer("a chance", value, 0, MAX_CHANCE)


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise HintError("type", f"{what} must be an object, not {type(value).__name__}")
    return value


def _boolean(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise HintError("type", f"{what} must be a boolean, not {type(value).__name__}")
    return value


def _integer(what: str, value: object, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise HintError("type", f"{what} must be an integer, not {type(value).__name__}")
    if not lowest <= value <= highest:
        raise HintError("range", f"{what} must lie in [{lowest}, {highest}]")
    return value


def _optional_name(what: str, value: object, most_bytes: int) -> str | None:
    return None if value is None else _name(what, value, most_bytes)


def _name(what: str, value: object, most_bytes: int) -> str:
    if not isinstance(value, str):
        raise HintError("type", f"{what} must be a string, not {type(value).__name__}")
    if not value:
        raise HintError("name", f"{what} must not be empty")
    if len(value) > most_bytes:
        raise HintError("size", f"{what} is longer than {most_bytes} bytes")
    if not value.isprintable() and not all(map(_is_allowed, value)):
        raise HintError("name", f"{what} has control characters or lone surrogates")
    if len(value.encode("utf-8")) > most_bytes:
        raise HintError("size", f"{what} is longer than {most_bytes} bytes")
    return value
