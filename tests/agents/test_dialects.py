"""One forecast in every dialect, to the byte; and what encoders and parsers make of anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents import Forecast, Hint, HintError
from kvflow_agents.agent_hints import (
    HIGHEST_PRIORITY,
    LEAST_CHANCE,
    MAX_OUTPUT_TOKENS,
    NOTHING_SEEN,
    AgentHints,
    Seen,
    decode_agent_hints,
    encode_session,
    priority_of,
)
from kvflow_agents.dialects import DIALECTS, added_fields, is_hinted
from kvflow_agents.envelope import (
    MAX_ACTIONS,
    decode_envelope,
    encode_envelope,
    without_forecasts,
)
from kvflow_agents.hints import REASONS, agent_name, decode_body, decode_request, workflow_name

VECTORS = json.loads((files("kvflow_agents") / "conformance/dialects.json").read_text())["vectors"]
CASES = [(each, name) for each in VECTORS for name in each["dialects"]]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
agents = st.text(max_size=12).map(lambda name: agent_name([name]))
counts = st.integers(0, 1_000_000)
forecasts = st.builds(
    Forecast,
    seq=st.integers(0, 2**63 - 1),
    steps=st.dictionaries(agents, st.none() | counts, max_size=6),
    done=st.booleans(),
    changes=st.booleans(),
    due_ms=st.dictionaries(agents, st.integers(0, 31_536_000_000), max_size=6),
    chance=st.dictionaries(agents, st.integers(0, 100), max_size=6),
    loras=st.just({}),
)
hints = st.builds(
    Hint,
    workflow=st.text(max_size=12).map(workflow_name),
    forecast=forecasts,
    agent=st.none() | agents,
    app=st.none() | st.just("app"),
    at_ms=st.none(),
    tenant=st.none(),
    is_answer=st.just(False),
)
sights = st.builds(Seen, st.none() | st.integers(0, 2**40), st.booleans())


@pytest.mark.parametrize(
    ("vector", "dialect"), CASES, ids=[f"{name}: {each['name']}" for each, name in CASES]
)
def test_a_forecast_is_encoded_as_the_vectors_say(vector: Any, dialect: str) -> None:
    additions = DIALECTS[dialect](decode_body(vector["hint"]), Seen(**vector.get("seen", {})))
    wanted = vector["dialects"][dialect]
    compact = json.dumps(additions.body, separators=(",", ":"), ensure_ascii=False)
    assert compact == wanted["bytes"]
    assert additions.headers == wanted.get("headers", {})


def test_the_vectors_show_every_dialect() -> None:
    assert {name for _, name in CASES} == set(DIALECTS)


@given(hints)
def test_an_envelope_holds_the_hint_that_went_in(hint: Hint) -> None:
    travelled = json.loads(json.dumps(encode_envelope(hint)))
    assert decode_envelope(travelled) == hint
    assert without_forecasts(travelled) is None


@given(hints, sights)
def test_every_dialect_encodes_every_hint_as_json_and_plain_headers(hint: Hint, seen: Seen) -> None:
    for encode in DIALECTS.values():
        additions = encode(hint, seen)
        json.dumps(additions.body)
        for value in additions.headers.values():
            assert value.isascii() and value.isprintable() and value == value.strip()
    params = DIALECTS["kvflow"](hint, seen).body["custom_params"]
    assert decode_request(json.loads(json.dumps(params))) == hint


@given(hints, sights)
def test_our_own_agent_hints_are_understood(hint: Hint, seen: Seen) -> None:
    priority, osl = priority_of(hint), seen.output_tokens
    assert priority is None or 0 <= priority <= HIGHEST_PRIORITY
    goes_on = seen.goes_on and hint.forecast.chance.get(hint.agent or "", 0) >= LEAST_CHANCE
    body = DIALECTS["dynamo"](hint, seen).body
    said = decode_agent_hints(body) or AgentHints()
    assert said == AgentHints(priority, goes_on, () if osl is None else ("osl",))
    assert osl is None or body["nvext"]["agent_hints"]["osl"] <= MAX_OUTPUT_TOKENS


@given(anything)
def test_no_input_crashes_a_parser(value: Any) -> None:
    nested = {"actions": [{"action_type": "kvflow.forecast", "payload": value}]}
    versioned = {"actions": [{**nested["actions"][0], "action_version": "1.0"}, value]}
    for envelope in (value, {"actions": value}, nested, versioned):
        without_forecasts(envelope)
        _is_read_or_refused(decode_envelope, envelope)
    for body in (value, {"nvext": value}, {"nvext": {"agent_hints": value}}):
        _is_read_or_refused(decode_agent_hints, body)


@given(st.dictionaries(st.text(max_size=4), anything), hints)
def test_what_the_application_says_stays_as_it_is(body: dict[str, Any], hint: Hint) -> None:
    for encode in DIALECTS.values():
        additions = encode(hint, NOTHING_SEEN).body
        whole = {**body, **added_fields(body, additions)}
        assert _keeps(whole, body)
        assert added_fields(whole, additions) == {}


def test_additions_fill_objects_and_replace_nothing() -> None:
    body = {"nvext": {"agent_hints": {"osl": 9}, "annotations": []}, "priority": 1, "x": None}
    additions = {"nvext": {"agent_hints": {"priority": 5, "osl": 1}}, "priority": 5, "x": 2}
    assert added_fields(body, additions) == {
        "nvext": {"agent_hints": {"osl": 9, "priority": 5}, "annotations": []},
        "x": 2,
    }


def test_an_envelope_of_others_takes_our_action_besides() -> None:
    other = {"action_id": "1", "action_type": "kv.fetch", "action_version": "1.0", "payload": {}}
    theirs = {**GOOD, "message_id": "theirs", "actions": [other]}
    added = added_fields({"kv_hints": theirs}, {"kv_hints": GOOD})
    assert added == {"kv_hints": {**theirs, "actions": [other, ACTION]}}
    assert theirs["actions"] == [other]


@pytest.mark.parametrize(
    "change",
    [
        {"protocol_version": "9.0"},
        {"actions": {}},
        {"actions": [{"action_type": "kv.fetch"}] * MAX_ACTIONS},
        {"actions": [{"action_type": "kvflow.forecast", "action_version": "7.0"}]},
    ],
)
def test_an_envelope_that_cannot_take_it_goes_as_it_is(change: dict[str, Any]) -> None:
    assert added_fields({"kv_hints": {**GOOD, **change}}, {"kv_hints": GOOD}) == {}
    assert added_fields({"kv_hints": "nothing"}, {"kv_hints": GOOD}) == {}


def test_a_request_is_hinted_in_either_form() -> None:
    assert is_hinted({"custom_params": {"kvflow": {}}})
    assert is_hinted({"kv_hints": GOOD})
    assert not is_hinted({"kv_hints": {"actions": [{"action_type": "kv.fetch"}]}})
    assert not is_hinted({"custom_params": {"mine": 1}, "nvext": {}, "priority": 1})
    assert not is_hinted({"custom_params": "kvflow"})


@pytest.mark.parametrize(
    ("due_ms", "chance", "priority"),
    [
        (0, 100, 10),
        (999, 100, 10),
        (1000, 100, 9),
        (3999, 100, 8),
        (4000, 100, 7),
        (1000, 50, 8),
        (10**9, 100, 1),
        (0, 0, 0),
        (None, 0, 0),
        (None, 100, None),
        (5000, None, 7),
        (None, None, None),
    ],
)
def test_a_priority_is_how_soon_the_callers_kv_is_needed_again(
    due_ms: int | None, chance: int | None, priority: int | None
) -> None:
    forecast = Forecast(
        1,
        {"a": 0},
        due_ms={} if due_ms is None else {"a": due_ms},
        chance={} if chance is None else {"a": chance},
    )
    assert priority_of(Hint("w", forecast, agent="a")) == priority
    assert priority_of(Hint("w", forecast)) is None


def test_a_message_without_a_caller_is_the_workflows_own_session() -> None:
    assert encode_session(Hint("w", Forecast(1))) == {"X-Dynamo-Session-ID": "w"}


GOOD = encode_envelope(Hint("w", Forecast(1, {"a": 1}), agent="a"))
ACTION = GOOD["actions"][0]


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        ([], "type"),
        ({"actions": {}}, "type"),
        ({"actions": [1]}, "type"),
        ({"actions": [{"action_type": "other"}] * 65}, "size"),
        ({"actions": [ACTION, ACTION]}, "size"),
        ({"actions": [{**ACTION, "action_version": "2.0"}]}, "version"),
        ({"actions": [{**ACTION, "action_version": 1}]}, "type"),
        ({"actions": [{**ACTION, "payload": None}]}, "type"),
        ({"actions": [{**ACTION, "payload": {**ACTION["payload"], "v": 2}}]}, "version"),
        ({"actions": [{**ACTION, "payload": {**ACTION["payload"], "seq": -1}}]}, "range"),
    ],
)
def test_a_malformed_envelope_is_refused_with_a_reason(envelope: object, reason: str) -> None:
    with pytest.raises(HintError) as error:
        decode_envelope(envelope)
    assert error.value.reason == reason


def test_other_actions_are_not_looked_at_and_kept() -> None:
    other = {"action_id": "1", "action_type": "kv.fetch", "action_version": 7, "payload": []}
    mixed = {**GOOD, "actions": [other, ACTION, {**ACTION, "action_version": "2.0"}]}
    assert decode_envelope(mixed) == decode_envelope(GOOD)
    assert without_forecasts(mixed) == {**GOOD, "actions": [other]}
    assert decode_envelope({"actions": [other]}) is None
    assert decode_envelope({"actions": [{**ACTION, "action_version": "1.7"}]}) is not None


@pytest.mark.parametrize(
    ("agent_hints", "reason"),
    [
        ([], "type"),
        ("high", "type"),
        ({"priority": "5"}, "type"),
        ({"priority": True}, "type"),
        ({"priority": 1.5}, "type"),
        ({"priority": 2**31}, "range"),
        ({"speculative_prefill": "true"}, "type"),
    ],
)
def test_malformed_agent_hints_are_refused_with_a_reason(agent_hints: Any, reason: str) -> None:
    with pytest.raises(HintError) as error:
        decode_agent_hints({"nvext": {"agent_hints": agent_hints}})
    assert error.value.reason == reason


def test_of_agent_hints_it_is_told_what_means_nothing() -> None:
    said = {"priority": -3, "osl": 9, "speculative_prefill": True, "strict_priority": 1, "x": 1}
    assert decode_agent_hints({"nvext": {"agent_hints": said}}) == AgentHints(
        priority=-3, goes_on=True, ignored=("osl", "strict_priority", "other")
    )


def _is_read_or_refused(decode: Any, value: object) -> None:
    try:
        decode(value)
    except HintError as error:
        assert error.reason in REASONS


def _keeps(whole: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Whether everything that was said is still there, but for what was null."""
    return all(
        _keeps(whole[name], value)
        if isinstance(value, Mapping)
        else value is None or whole[name] is value
        for name, value in said.items()
    )
