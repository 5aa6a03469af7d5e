"""What passes the door: every request, without a malformed hint, and nothing that kills."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, decode_caller, decode_request, encode_request
from kvflow_sglang.doorman import Doorman, now_ms

FORECAST = Forecast(
    3,
    {"writer": 0, "critic": None},
    due_ms={"writer": 9},
    chance={"critic": 4},
    loras={"critic": "style"},
)
NOW_MS = 1_700_000_000_000
HINT = Hint("run", FORECAST, agent="writer", app="app", at_ms=NOW_MS)
MINE = {"thinking_budget": 8, "ids": [1, 2], "options": {"a": None, "b": 0.5}}


def admitted(doorman: Doorman, custom_params: object) -> Any:
    """What is left of a request's `custom_params`."""
    request = SimpleNamespace(sampling_params={"custom_params": custom_params, "top_k": 1})
    doorman.admit(request)
    assert request.sampling_params["top_k"] == 1
    return request.sampling_params["custom_params"]


@pytest.fixture(params=[True, False], ids=["pickle", "msgpack"])
def doorman(request: pytest.FixtureRequest) -> Doorman:
    return Doorman(allows_nesting=request.param, clock=lambda: NOW_MS)


def test_a_hint_passes_as_it_is_and_so_does_what_lies_beside_it(doorman: Doorman) -> None:
    passed = admitted(doorman, {**MINE, **encode_request(HINT)})
    assert passed == {**MINE, **encode_request(HINT)}
    assert decode_request(passed) == HINT
    assert not doorman.refused


def test_what_a_client_says_of_the_time_does_not_count(doorman: Doorman) -> None:
    for said in (0, NOW_MS + 10**9, "noon", -1, None):
        lying = encode_request(HINT)
        lying["kvflow"]["at_ms"] = said
        assert admitted(doorman, lying) == encode_request(HINT)
    assert not doorman.refused


def test_other_parameters_pass_untouched(doorman: Doorman) -> None:
    assert admitted(doorman, MINE) == MINE
    assert admitted(doorman, {}) == {}
    assert admitted(doorman, None) is None
    assert not doorman.refused


@pytest.mark.parametrize(
    ("scalars", "steps", "reason"),
    [
        ({"v": 2}, {}, "version"),
        ({"seq": "7"}, {}, "type"),
        ({"workflow": ""}, {}, "name"),
        ({"workflow": "a\x00b"}, {}, "name"),
        ({"seq": -1}, {}, "range"),
        ({"workflow": "w" * 200}, {}, "size"),
        ({}, {"writer": float("nan")}, "type"),
        ({}, {"writer": -1}, "range"),
        ({}, {"writer": 10**30}, "range"),
        ({}, {"\ud800": 1}, "name"),
        ({}, {"writer": {"deep": {"deeper": 1}}}, "type"),
        ({}, {f"a{number}": 1 for number in range(5000)}, "size"),
        ({}, "steps", "type"),
    ],
)
def test_a_malformed_hint_is_taken_off_and_counted(
    doorman: Doorman, scalars: Mapping[str, Any], steps: object, reason: str
) -> None:
    good = encode_request(HINT)
    bad = {"kvflow": {**good["kvflow"], **scalars}, "kvflow_steps": steps}
    assert admitted(doorman, {**MINE, **bad}) == MINE
    assert doorman.refused == {reason: 1}


@pytest.mark.parametrize("fields", [None, [], "kvflow", 1, {}, {"v": 1}])
def test_what_is_no_hint_at_all_is_taken_off(doorman: Doorman, fields: object) -> None:
    assert admitted(doorman, {**MINE, "kvflow": fields, "kvflow_steps": {"a": 1}}) == MINE
    assert doorman.refused == {"type": 1}


def test_steps_without_a_hint_are_taken_off(doorman: Doorman) -> None:
    for field in ("kvflow_steps", "kvflow_due_ms", "kvflow_chance", "kvflow_loras"):
        assert admitted(doorman, {**MINE, field: {"deep": {"deeper": {}}}}) == MINE
    assert not doorman.refused


def test_what_a_later_version_adds_is_left_out(doorman: Doorman) -> None:
    later = encode_request(HINT)
    later["kvflow"] |= {"spread": 0.5, "waits": {"tool": [1, 2]}, "huge": 2**70}
    assert admitted(doorman, later) == encode_request(HINT)


def test_the_senders_objects_stay_as_they_are(doorman: Doorman) -> None:
    bad: dict[str, Any] = {"kvflow": {"v": 9}}
    admitted(doorman, bad)
    assert bad == {"kvflow": {"v": 9}}


def test_every_request_of_a_batch_is_looked_at(doorman: Doorman) -> None:
    bad = {"kvflow": {"v": 2}}
    good = encode_request(HINT)
    params: list[Any] = [{"custom_params": bad}, {"custom_params": good}, {}, None]
    doorman.admit(SimpleNamespace(sampling_params=params))
    assert params == [{"custom_params": {}}, {"custom_params": good}, {}, None]
    assert doorman.refused == {"version": 1}


@pytest.mark.parametrize("request_", [SimpleNamespace(), SimpleNamespace(sampling_params=None)])
def test_requests_without_sampling_parameters_pass(doorman: Doorman, request_: Any) -> None:
    doorman.admit(request_)


NESTED = [{"mine": {"a": {"b": 1}}}, {"mine": {"a": [1]}}, {"mine": [[1]]}, {"mine": [{"a": 1}]}]


@pytest.mark.parametrize("nested", NESTED)
def test_nesting_that_msgpack_cannot_carry_is_refused(nested: Any) -> None:
    for params in (nested, {**nested, **encode_request(HINT)}):
        with pytest.raises(ValueError, match=r"custom_params\['mine'\] nests deeper"):
            admitted(Doorman(allows_nesting=False, clock=lambda: NOW_MS), params)
        assert admitted(Doorman(allows_nesting=True, clock=lambda: NOW_MS), params) == params


@pytest.mark.parametrize(
    "lacked", [{"a": 2**64}, {"a": {"b": -(2**63) - 1}}, {"a": "\ud800"}, {"\ud800": 1}]
)
def test_what_msgpack_has_no_bytes_for_is_refused(lacked: Any) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        admitted(Doorman(allows_nesting=False), lacked)
    assert admitted(Doorman(allows_nesting=True), lacked) == lacked
    most = {"a": 2**64 - 1, "b": -(2**63), "c": float("nan")}
    assert admitted(Doorman(allows_nesting=False), most) == most


@pytest.mark.parametrize("params", [5, "kvflow", ["kvflow"], [{"kvflow": 1}], 0, "", False])
def test_what_is_no_object_carries_no_hint_and_no_msgpack(params: object) -> None:
    assert admitted(Doorman(allows_nesting=True, clock=lambda: NOW_MS), params) == params
    assert decode_request(params) is None
    assert decode_caller(params) is None
    with pytest.raises(ValueError, match="must be an object"):
        admitted(Doorman(allows_nesting=False, clock=lambda: NOW_MS), params)


def test_the_clock_of_the_hints_is_not_set_with_the_time_of_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = now_ms()
    for jump_s in (3600, -3600):
        monkeypatch.setattr("time.time", lambda by=jump_s: by)
        monkeypatch.setattr("time.time_ns", lambda by=jump_s: by * 10**9)
        assert before <= now_ms() < before + 60_000
