"""The hint as it travels: what is sent comes back, and nothing malformed gets in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvflow_agents import Forecast, Hint, HintError, agent_name
from kvflow_agents.hints import (
    HINT_FIELDS,
    MAX_AGENT_BYTES,
    MAX_AGENTS,
    MAX_APP_BYTES,
    MAX_CHANCE,
    MAX_DUE_MS,
    MAX_LORA_BYTES,
    MAX_NAMES_BYTES,
    MAX_SEQ,
    MAX_STEPS,
    MAX_WORKFLOW_BYTES,
    REASONS,
    REQUEST_FIELDS,
    SERVER_FIELDS,
    decode_body,
    decode_caller,
    decode_request,
    encode_body,
    encode_request,
    fitting,
    fitting_loras,
    lora_name,
    tenant_in,
)

MINIMAL = {"v": 1, "workflow": "run", "seq": 7}


def names(most_bytes: int) -> st.SearchStrategy[str]:
    """Every name that the protocol allows, non-printable but harmless characters included."""
    refused: tuple[Any, ...] = ("Cc", "Cs", "Zl", "Zp")
    text = st.text(st.characters(exclude_categories=refused), min_size=1, max_size=most_bytes)
    return text.filter(lambda name: len(name.encode()) <= most_bytes)


def forecast_of(steps: dict[str, int | None], loras: dict[str, str], **fields: Any) -> Forecast:
    """A forecast whose steps name whoever its adapters do."""
    return Forecast(steps={**dict.fromkeys(loras), **steps}, loras=loras, **fields)


def hints() -> st.SearchStrategy[Hint]:
    steps = st.dictionaries(
        names(MAX_AGENT_BYTES), st.none() | st.integers(0, MAX_STEPS), max_size=20
    )
    due_ms = st.dictionaries(names(MAX_AGENT_BYTES), st.integers(0, MAX_DUE_MS), max_size=5)
    chance = st.dictionaries(names(MAX_AGENT_BYTES), st.integers(0, MAX_CHANCE), max_size=5)
    loras = st.dictionaries(names(MAX_AGENT_BYTES), names(MAX_LORA_BYTES), max_size=5)
    return st.builds(
        Hint,
        workflow=names(MAX_WORKFLOW_BYTES),
        forecast=st.builds(
            forecast_of,
            seq=st.integers(0, MAX_SEQ),
            steps=steps,
            loras=loras,
            done=st.booleans(),
            changes=st.booleans(),
            due_ms=due_ms,
            chance=chance,
        ),
        agent=st.none() | names(MAX_AGENT_BYTES),
        app=st.none() | names(MAX_APP_BYTES),
        # What a server adds; hypothesis draws each field of a tuple that it is not told of.
        at_ms=st.none(),
        tenant=st.none(),
        is_answer=st.just(False),
    )


def refusal(body: object) -> str:
    """The reason for which a body is refused."""
    with pytest.raises(HintError) as caught:
        decode_body(body)
    assert caught.value.reason in REASONS
    assert str(caught.value)
    return caught.value.reason


@given(hints())
def test_a_hint_comes_back_from_a_body(hint: Hint) -> None:
    assert decode_body(json.loads(json.dumps(encode_body(hint)))) == hint


@given(hints())
def test_a_hint_comes_back_from_a_request(hint: Hint) -> None:
    params = {"temperature_of_the_user": 1, **encode_request(hint)}
    assert decode_request(json.loads(json.dumps(params))) == hint


@given(hints())
def test_a_hint_in_a_request_nests_one_level_deep(hint: Hint) -> None:
    for entry in encode_request(hint).values():
        assert not any(isinstance(value, dict | list) for value in entry.values())


def test_the_wire_format_is_the_documented_one() -> None:
    hint = Hint("run", Forecast(3, {"a": 0, "b": None}, done=True), agent="a", app="f00d")
    scalars = {"v": 1, "workflow": "run", "seq": 3, "app": "f00d", "agent": "a", "done": True}
    assert encode_body(hint) == {**scalars, "steps": {"a": 0, "b": None}}
    assert encode_request(hint) == {"kvflow": scalars, "kvflow_steps": {"a": 0, "b": None}}


def test_what_is_said_of_agents_travels_beside_the_steps() -> None:
    forecast = Forecast(
        3,
        {"a": 0, "b": 1},
        due_ms={"b": 1500},
        chance={"a": 20, "b": 90},
        loras={"b": "style-a"},
    )
    hint = Hint("run", forecast)
    scalars = {"v": 1, "workflow": "run", "seq": 3}
    learned = {
        "due_ms": {"b": 1500},
        "chance": {"a": 20, "b": 90},
        "loras": {"b": "style-a"},
    }
    assert encode_body(hint) == {**scalars, "steps": {"a": 0, "b": 1}, **learned}
    assert encode_request(hint) == {
        "kvflow": scalars,
        "kvflow_steps": {"a": 0, "b": 1},
        "kvflow_due_ms": {"b": 1500},
        "kvflow_chance": {"a": 20, "b": 90},
        "kvflow_loras": {"b": "style-a"},
    }
    assert set(encode_request(hint)) == set(HINT_FIELDS) == set(REQUEST_FIELDS) - set(SERVER_FIELDS)


def test_a_tenant_travels_beside_the_hint_and_never_in_a_body() -> None:
    hint = Hint("run", Forecast(3), tenant="4f2a")
    assert decode_request(encode_request(hint)) == decode_caller(encode_request(hint)) == hint
    assert decode_body(encode_body(hint)).tenant is None
    assert (
        decode_body({**encode_body(hint), "tenant": "4f2a", "kvflow_tenant": "4f2a"}).tenant is None
    )


@pytest.mark.parametrize("said", [None, "", 5, ["a"], "a b", "a\x00b", "x" * 65])
def test_what_is_no_name_of_a_tenant_is_nobody(said: object) -> None:
    assert tenant_in({"kvflow_tenant": said}) is None
    assert tenant_in({"kvflow_tenant": "4f2a"}) == "4f2a"
    assert tenant_in([said]) is tenant_in(None) is None


def test_what_a_hint_leaves_out_is_not_sent() -> None:
    assert encode_body(Hint("run", Forecast(7))) == {**MINIMAL, "steps": {}}


def test_absent_fields_have_defaults() -> None:
    hint = Hint("run", Forecast(7, {}, done=False), agent=None, app=None)
    assert decode_body(MINIMAL) == hint
    assert decode_request({"kvflow": MINIMAL}) == hint


@pytest.mark.parametrize(
    "params", [None, {}, {"kvflow_steps": {"a": 1}}, {"other": {}}, [], ["kvflow"], "kvflow", 3]
)
def test_a_request_without_a_hint_has_none(params: object) -> None:
    assert decode_request(params) is None
    assert decode_caller(params) is None


@given(hints())
def test_who_calls_is_decoded_without_the_steps(hint: Hint) -> None:
    was = hint.forecast
    forecast = Forecast(was.seq, {}, done=was.done, changes=was.changes)
    without_steps = Hint(hint.workflow, forecast, hint.agent, hint.app)
    said = ("kvflow_steps", "kvflow_due_ms", "kvflow_chance", "kvflow_loras")
    unread = dict.fromkeys(said, "unread")
    assert decode_caller({**encode_request(hint), **unread}) == without_steps
    with pytest.raises(HintError):
        decode_caller({"kvflow": {**MINIMAL, "agent": 3}})


def test_unknown_fields_are_ignored() -> None:
    body = {**MINIMAL, "tomorrow": {"deep": [1, {}]}, "steps": {"a": 2}}
    assert decode_body(body) == Hint("run", Forecast(7, {"a": 2}))


@pytest.mark.parametrize("version", [2, 3, MAX_SEQ])
def test_another_version_is_refused_as_such_before_anything_else(version: int) -> None:
    assert refusal({"v": version, "workflow": 4, "steps": "new"}) == "version"


@pytest.mark.parametrize("field", ["v", "workflow", "seq"])
def test_a_required_field_must_be_there(field: str) -> None:
    assert refusal({name: value for name, value in MINIMAL.items() if name != field}) == "type"


NOT_INTEGERS: list[object] = [
    None,
    True,
    False,
    "1",
    1.0,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    [],
    {},
    [1],
]
NOT_STRINGS: list[object] = [0, 1, True, 1.5, math.nan, [], ["a"], {}, {"a": 1}]
NOT_OBJECTS: list[object] = [None, True, 0, 1.5, "steps", "", [], [["a", 1]], math.nan]


@pytest.mark.parametrize("field", ["v", "seq"])
@pytest.mark.parametrize("value", NOT_INTEGERS)
def test_an_integer_must_be_one(field: str, value: object) -> None:
    assert refusal({**MINIMAL, field: value}) == "type"


@pytest.mark.parametrize("value", [value for value in NOT_INTEGERS if value is not None])
def test_steps_to_execution_must_be_integers_or_null(value: object) -> None:
    assert refusal({**MINIMAL, "steps": {"a": 1, "b": value}}) == "type"


@pytest.mark.parametrize("field", ["due_ms", "chance"])
@pytest.mark.parametrize("value", NOT_INTEGERS)
def test_a_time_and_a_chance_must_be_integers(field: str, value: object) -> None:
    assert refusal({**MINIMAL, field: {"a": 1, "b": value}}) == "type"


@pytest.mark.parametrize(
    ("field", "highest"), [("due_ms", 365 * 24 * 3600 * 1000), ("chance", 100)]
)
def test_a_time_and_a_chance_must_be_in_range(field: str, highest: int) -> None:
    decode_body({**MINIMAL, field: {"a": 0, "b": highest}})
    for value in (-1, highest + 1, 10**30):
        assert refusal({**MINIMAL, field: {"a": value}}) == "range"


@pytest.mark.parametrize("field", ["workflow", "app", "agent"])
@pytest.mark.parametrize("value", NOT_STRINGS)
def test_a_name_must_be_a_string(field: str, value: object) -> None:
    assert refusal({**MINIMAL, field: value}) == "type"


def test_an_agent_in_steps_must_be_a_string() -> None:
    for field in ("steps", "due_ms", "chance"):
        assert refusal({**MINIMAL, field: {3: 1}}) == "type"


@pytest.mark.parametrize("field", ["done", "changes"])
@pytest.mark.parametrize("value", [None, 0, 1, "true", [], {}, 1.0])
def test_a_boolean_must_be_one(field: str, value: object) -> None:
    assert refusal({**MINIMAL, field: value}) == "type"


def test_changes_are_said_to_be_such() -> None:
    hint = Hint("run", Forecast(3, {"a": 0}, changes=True))
    scalars = {"v": 1, "workflow": "run", "seq": 3, "changes": True}
    assert encode_body(hint) == {**scalars, "steps": {"a": 0}}
    assert encode_request(hint) == {"kvflow": scalars, "kvflow_steps": {"a": 0}}


@pytest.mark.parametrize("value", NOT_OBJECTS)
def test_objects_must_be_objects(value: object) -> None:
    assert refusal(value) == "type"
    for field in ("steps", "due_ms", "chance"):
        assert refusal({**MINIMAL, field: value}) == "type"
    with pytest.raises(HintError, match="kvflow must be an object"):
        decode_request({"kvflow": value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("v", 0), ("v", -1), ("v", MAX_SEQ + 1), ("seq", -1), ("seq", MAX_SEQ + 1), ("seq", 10**4000)],
)
def test_an_integer_must_be_in_range(field: str, value: int) -> None:
    assert refusal({**MINIMAL, field: value}) == "range"


@pytest.mark.parametrize("value", [-1, -(10**30), MAX_STEPS + 1, 2**64])
def test_steps_to_execution_must_be_in_range(value: int) -> None:
    assert refusal({**MINIMAL, "steps": {"a": value}}) == "range"


REFUSED_NAMES = [
    "",
    "a\x00",
    "\n",
    "a\tb",
    "\x7f",
    "\x85",
    "\x9f",
    "a\u2028b",
    "a\u2029b",
    "\ud800",
    "a\udfffb",
]
FIELDS: list[Callable[[str], dict[str, Any]]] = [
    lambda name: {**MINIMAL, "workflow": name},
    lambda name: {**MINIMAL, "app": name},
    lambda name: {**MINIMAL, "agent": name},
    lambda name: {**MINIMAL, "steps": {name: 1}},
    lambda name: {**MINIMAL, "due_ms": {name: 1}},
    lambda name: {**MINIMAL, "chance": {name: 1}},
]
LIMITS = [MAX_WORKFLOW_BYTES, MAX_APP_BYTES, *[MAX_AGENT_BYTES] * 4]


@pytest.mark.parametrize("name", REFUSED_NAMES)
@pytest.mark.parametrize("body", FIELDS)
def test_a_name_must_be_speakable(body: Callable[[str], dict[str, Any]], name: str) -> None:
    assert refusal(body(name)) == "name"


@pytest.mark.parametrize(
    "name", ["ä", "研究", "👩‍🔬", "a b", "\u200f", "a/b", "$^", "\u00a0", "\ufeff"]
)
@pytest.mark.parametrize("body", FIELDS)
def test_every_script_is_welcome(body: Callable[[str], dict[str, Any]], name: str) -> None:
    decode_body(body(name))


@pytest.mark.parametrize(("body", "limit"), list(zip(FIELDS, LIMITS, strict=True)))
def test_a_names_limit_counts_bytes(body: Callable[[str], dict[str, Any]], limit: int) -> None:
    decode_body(body("x" * limit))
    decode_body(body("ä" * (limit // 2)))
    assert refusal(body("x" * (limit + 1))) == "size"
    assert refusal(body("ä" * (limit // 2) + "x")) == "size"
    assert refusal(body("研" * (limit // 2))) == "size"
    assert refusal(body("x" * 10_000_000)) == "size"


def test_the_number_of_agents_is_limited() -> None:
    steps = {f"agent {number}": number for number in range(MAX_AGENTS + 1)}
    for field in ("steps", "due_ms", "chance"):
        assert refusal({**MINIMAL, field: dict.fromkeys(steps, 1)}) == "size"
    del steps["agent 0"]
    assert decode_body({**MINIMAL, "steps": steps}).forecast.steps == steps


def test_the_names_of_all_agents_together_are_limited() -> None:
    whole, rest = divmod(MAX_NAMES_BYTES, MAX_AGENT_BYTES)
    assert rest == 0
    steps = {f"{number:x<{MAX_AGENT_BYTES}}": 1 for number in range(whole)}
    decode_body({**MINIMAL, "steps": steps})
    assert refusal({**MINIMAL, "steps": {**steps, "y": 1}}) == "size"


@pytest.mark.parametrize("name", ["x", "x" * 60, "ä" * 100])
def test_steps_that_fit_are_the_first_that_one_hint_holds(name: str) -> None:
    steps = {f"{name}{number:05}": number for number in range(2 * MAX_AGENTS)}
    fits = fitting(steps)
    assert list(fits) == list(steps)[: len(fits)]
    assert decode_body({**MINIMAL, "steps": fits}).forecast.steps == fits
    more = dict(list(steps.items())[: len(fits) + 1])
    assert refusal({**MINIMAL, "steps": more}) == "size"
    few = {"a": 1, "b": None}
    assert fitting(few) == few


@pytest.mark.parametrize(
    ("loras", "reason"),
    [
        ("style", "type"),
        (["style"], "type"),
        ({"a": 1}, "type"),
        ({"a": None}, "type"),
        ({"a": {"style": 1}}, "type"),
        ({"a": ""}, "name"),
        ({"a": "style\n"}, "name"),
        ({"stranger": "style"}, "name"),
        ({"a": "x" * (MAX_LORA_BYTES + 1)}, "size"),
        ({"a": "ä" * (MAX_LORA_BYTES // 2 + 1)}, "size"),
    ],
)
def test_adapters_that_are_malformed_are_refused_for_a_reason(loras: object, reason: str) -> None:
    assert refusal({**MINIMAL, "steps": {"a": 1}, "loras": loras}) == reason


def test_an_adapters_name_may_be_as_long_as_an_agents() -> None:
    loras = {"a": "ä" * (MAX_LORA_BYTES // 2)}
    assert decode_body({**MINIMAL, "steps": {"a": 1}, "loras": loras}).forecast.loras == loras


@given(
    st.dictionaries(names(MAX_AGENT_BYTES), names(MAX_LORA_BYTES)),
    st.dictionaries(names(MAX_AGENT_BYTES), st.none() | st.integers(0, MAX_STEPS)),
)
def test_adapters_that_fit_are_those_of_the_agents_named(
    loras: dict[str, str], steps: dict[str, int | None]
) -> None:
    fits = fitting_loras(loras, steps)
    assert fits == {agent: loras[agent] for agent in steps if agent in loras}
    assert decode_body({**MINIMAL, "steps": steps, "loras": fits}).forecast.loras == fits


def test_of_too_many_adapters_the_first_that_one_hint_holds_are_told() -> None:
    steps = {f"agent {number}": 1 for number in range(MAX_AGENTS)}
    loras = {agent: f"{agent} {'x' * 200}" for agent in steps}
    fits = fitting_loras(loras, steps)
    assert list(fits) == list(steps)[: len(fits)]
    assert decode_body({**MINIMAL, "steps": steps, "loras": fits}).forecast.loras == fits
    more = dict(list(loras.items())[: len(fits) + 1])
    assert refusal({**MINIMAL, "steps": steps, "loras": more}) == "size"


@given(st.text(st.characters()))
@example("x" * 257)
@example("\ud800")
@example("")
def test_the_name_of_an_adapter_is_itself_or_no_hint_can_hold_it(name: str) -> None:
    loras = {"a": name}
    if lora_name(name) is None:
        assert refusal({**MINIMAL, "steps": {"a": 1}, "loras": loras}) in ("name", "size")
    else:
        assert lora_name(name) == name
        assert decode_body({**MINIMAL, "steps": {"a": 1}, "loras": loras}).forecast.loras == loras


def test_the_reasons_are_documented_labels() -> None:
    assert REASONS == ("version", "type", "name", "range", "size")


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    for body in (
        {**MINIMAL, "workflow": "secret\n"},
        {**MINIMAL, "workflow": "secret" * 100},
        {**MINIMAL, "steps": {"secret": "secret"}},
        {**MINIMAL, "seq": "secret"},
    ):
        with pytest.raises(HintError) as caught:
            decode_body(body)
        assert "secret" not in str(caught.value)


def test_a_decoded_hint_does_not_change_with_its_body() -> None:
    body = {**MINIMAL, "steps": {"a": 1}}
    hint = decode_body(body)
    body["steps"]["a"] = 2  # type: ignore[index]
    assert hint.forecast.steps == {"a": 1}


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.sampled_from(["kvflow", 1, 2**63, 2**64, -1]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
    ),
    max_leaves=4,
)
FIELD_NAMES = (
    *("v", "workflow", "app", "agent", "seq", "done", "changes", "else"),
    *("steps", "due_ms", "chance", "loras"),
)
NEARLY_VALID = st.fixed_dictionaries(
    {},
    optional={
        name: JSON_LIKE | st.sampled_from([1, "run", {"a": 1}, {"a": None}, {"a": "b"}, True])
        for name in FIELD_NAMES
    },
).map(lambda fields: {"v": 1, "workflow": "run", "seq": 7, **fields})


@given(JSON_LIKE | NEARLY_VALID)
@settings(max_examples=500, deadline=None)
def test_a_body_of_any_json_is_decoded_or_refused(body: object) -> None:
    try:
        hint = decode_body(body)
    except HintError as error:
        assert error.reason in REASONS
    else:
        assert decode_body(json.loads(json.dumps(encode_body(hint)))) == hint


NEARLY_VALID_PARAMS = st.fixed_dictionaries(
    {"kvflow": NEARLY_VALID},
    optional={
        name: JSON_LIKE | st.sampled_from([{"a": 1}, {"a": "b"}])
        for name in ("kvflow_steps", "kvflow_due_ms", "kvflow_chance", "kvflow_loras")
    },
)


@given(JSON_LIKE | NEARLY_VALID_PARAMS)
@settings(max_examples=500, deadline=None)
def test_params_of_any_json_are_decoded_or_refused(params: object) -> None:
    try:
        hint = decode_request(params)
    except HintError as error:
        assert error.reason in REASONS
    else:
        assert hint is None or decode_request(encode_request(hint)) == hint


@given(st.lists(st.text(st.characters()), max_size=6))
@settings(max_examples=1000, deadline=None)
@example(["\ud800"])
@example([""])
@example([])
@example(["ä" * 200])
@example(["x" + "ä" * 128])
@example(["a/b", "c"])
def test_an_agent_name_is_accepted_by_every_hint(segments: list[str]) -> None:
    name = agent_name(segments)
    assert 0 < len(name.encode()) <= MAX_AGENT_BYTES
    hint = Hint("run", Forecast(1, {name: 1}), agent=name)
    assert decode_body(json.loads(json.dumps(encode_body(hint)))) == hint


@given(st.lists(st.text(st.characters()), max_size=6))
@example(["x" * 300, "y"])
def test_an_agent_name_split_into_its_segments_is_the_same_name(segments: list[str]) -> None:
    name = agent_name(segments)
    assert agent_name(name.split("/")) == name


@given(st.lists(names(20).filter(lambda name: "/" not in name), min_size=1, max_size=6))
def test_an_agent_name_that_needs_no_change_is_the_joined_path(segments: list[str]) -> None:
    assert agent_name(segments) == "/".join(segments)


def test_an_agent_name_replaces_what_it_cannot_hold() -> None:
    assert agent_name(["team/a", "wri\nter", "\ud800"]) == "team_a/wri_ter/_"


def test_a_long_agent_name_keeps_its_innermost_segments() -> None:
    assert agent_name(["outer" * 100, "inner"]).endswith("outer/inner")
