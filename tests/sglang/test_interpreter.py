"""What clients say in the forms of other projects travels as ours, and harms nobody."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang.api.v1 import api_types
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.kv_hints import KvHintAction, KvHintsEnvelope, decode_kv_hints_envelope

from kvflow_agents.envelope import encode_envelope
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, decode_body, decode_request, encode_request
from kvflow_sglang.compat import http_process
from kvflow_sglang.doorman import Doorman
from kvflow_sglang.interpreter import Interpreter
from kvflow_sglang.settings import Settings

HINT = Hint("run", Forecast(3, {"a": 0, "b": None}), agent="a")
OTHER = {"action_id": "1", "action_type": "kv.fetch", "action_version": "1.0", "payload": {}}
VECTORS = json.loads((files("kvflow_agents") / "conformance/dialects.json").read_text())["vectors"]
ENVELOPES = [
    (each["hint"], each["dialects"]["kv_hints"]["bytes"])
    for each in VECTORS
    if "kv_hints" in each["dialects"]
]

PARAMS: list[Any] = [None, {}, [{}, {}], {"custom_params": {"mine": 1}}]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


class VllmAction(msgspec.Struct, frozen=True):
    """The fields of vLLM's `KvHintAction`: `vllm/v1/kv_hints/protocol.py` at 01a37bc."""

    action_id: str
    action_type: str
    action_version: str
    payload: dict[str, Any]


class VllmEnvelope(msgspec.Struct, frozen=True):
    """The fields of vLLM's `KvHintsEnvelope`, as above."""

    protocol_version: str
    message_id: str
    actions: list[VllmAction]


def interpreter(*, priority_sign: int | None = None, **settings: Any) -> Interpreter:
    return Interpreter(Counter(), settings=Settings(**settings), priority_sign=priority_sign)


def request_with(**fields: Any) -> Any:
    return GenerateReqInput(text="hello", **fields)


def hint_of(params: Any) -> Hint | None:
    return decode_request((params or {}).get("custom_params"))


@pytest.mark.parametrize(("hint", "encoded"), ENVELOPES)
def test_envelopes_are_those_of_sglang_and_vllm_to_the_byte(hint: Any, encoded: str) -> None:
    ours = json.loads(encoded)["kv_hints"]
    compact = encoded[len('{"kv_hints":') : -1].encode()
    assert msgspec.json.encode(decode_kv_hints_envelope(ours)) == compact
    assert msgspec.json.encode(msgspec.convert(ours, VllmEnvelope)) == compact
    decoded = api_types.KvHintsEnvelope.from_json_value(ours)
    assert json.dumps(decoded.to_json_value(), separators=(",", ":"), ensure_ascii=False) == (
        compact.decode()
    )
    (action,) = ours["actions"]
    built = KvHintsEnvelope(**{**ours, "actions": [KvHintAction(**action)]})
    assert msgspec.json.encode(built) == compact
    assert encode_envelope(decode_body(hint)) == ours


@pytest.mark.parametrize("params", [None, {}, {"top_k": 1}, {"custom_params": {"mine": 1}}])
def test_a_forecast_in_an_envelope_travels_like_any_hint(params: Any) -> None:
    reader = interpreter()
    request = request_with(kv_hints=encode_envelope(HINT), sampling_params=params)
    reader.take_envelopes(request, None)
    assert hint_of(request.sampling_params) == HINT
    custom_params = request.sampling_params.pop("custom_params")
    for name, value in (params or {}).items():
        assert name == "custom_params" or request.sampling_params[name] == value
    assert ((params or {}).get("custom_params") or {}).items() <= custom_params.items()
    assert request.kv_hints is None
    assert reader.heard == {"kv_hints": 1}


def test_a_typed_envelope_does_and_what_is_for_others_stays() -> None:
    envelope = encode_envelope(HINT)
    mixed = {**envelope, "actions": [OTHER, *envelope["actions"]]}
    request = request_with(kv_hints=decode_kv_hints_envelope(mixed))
    interpreter().take_envelopes(request, None)
    assert hint_of(request.sampling_params) == HINT
    assert decode_kv_hints_envelope(request.kv_hints).actions == [
        msgspec.convert(OTHER, KvHintAction)
    ]


def test_openai_requests_have_it_in_their_body() -> None:
    request = request_with()
    interpreter().take_envelopes(request, {"kv_hints": encode_envelope(HINT)})
    assert hint_of(request.sampling_params) == HINT
    assert request.kv_hints is None


def test_a_hint_in_custom_params_goes_before_one_in_an_envelope() -> None:
    mine = Hint("mine", Forecast(1))
    request = request_with(
        kv_hints=encode_envelope(HINT), sampling_params={"custom_params": encode_request(mine)}
    )
    interpreter().take_envelopes(request, None)
    assert hint_of(request.sampling_params) == mine


@pytest.mark.parametrize("params", [{"top_k": 1}, [{"top_k": 1}, {"top_k": 1}, {"top_k": 1}]])
def test_of_a_batch_each_request_has_its_own(params: Any) -> None:
    request = GenerateReqInput(
        text=["a", "b", "c"],
        kv_hints=[encode_envelope(HINT), None, {**encode_envelope(HINT), "actions": [OTHER]}],
        sampling_params=params,
    )
    reader = interpreter()
    reader.take_envelopes(request, None)
    request.normalize_batch_and_arguments()
    assert [hint_of(each) for each in request.sampling_params] == [HINT, None, None]
    assert [each["top_k"] for each in request.sampling_params] == [1, 1, 1]
    assert [each is None for each in request.kv_hints] == [True, True, False]
    assert reader.heard == {"kv_hints": 1}


def test_one_envelope_is_for_all_of_a_batch() -> None:
    request = GenerateReqInput(text=["a", "b"], kv_hints=encode_envelope(HINT))
    interpreter().take_envelopes(request, None)
    request.normalize_batch_and_arguments()
    assert [hint_of(each) for each in request.sampling_params] == [HINT, HINT]


def test_a_malformed_forecast_is_taken_off_and_counted() -> None:
    envelope = encode_envelope(HINT)
    envelope["actions"][0]["payload"]["seq"] = -1
    reader = interpreter()
    request = request_with(kv_hints={**envelope, "actions": [OTHER, *envelope["actions"]]})
    reader.take_envelopes(request, None)
    assert not request.sampling_params
    assert request.kv_hints["actions"] == [OTHER]
    assert reader._refused == {"range": 1}
    assert not reader.heard


def said(
    headers: dict[str, str], agent_hints: Any = None, reader: Interpreter | None = None
) -> tuple[Any, Interpreter]:
    """The request, and what was counted."""
    reader = reader or interpreter()
    request = request_with(sampling_params={})
    body = {} if agent_hints is None else {"nvext": {"agent_hints": agent_hints}}
    reader.take_agent_hints(request, headers, body)
    return request, reader


def test_a_session_names_its_workflow() -> None:
    request, reader = said({"x-dynamo-session-id": "s"})
    assert request.sampling_params == {"custom_params": {"kvflow_session": "s"}}
    assert reader.heard == {"session": 1}
    sub_agent = {"x-codex-parent-thread-id": "root", "thread-id": "child"}
    assert said(sub_agent)[0].sampling_params["custom_params"] == {"kvflow_session": "root"}


def test_a_final_session_ends_its_workflow_and_a_sub_agents_does_not() -> None:
    final = {"x-dynamo-session-id": "s", "x-dynamo-session-final": "True"}
    request, reader = said(final)
    assert request.sampling_params["custom_params"]["kvflow_last"] is True
    assert reader.heard == {"session": 1, "session_final": 1}
    request, reader = said({**final, "x-dynamo-parent-session-id": "run"})
    assert request.sampling_params["custom_params"] == {"kvflow_session": "run"}
    assert reader.ignored == {"session_final": 1}
    claude = {"x-claude-code-session-id": "s", "x-dynamo-session-final": "true"}
    assert said(claude)[1].heard["session_final"] == 1
    assert said({**claude, "x-claude-code-agent-id": "a"})[1].ignored == {"session_final": 1}
    assert said({"x-dynamo-session-final": "true"})[1].ignored == {"session_final": 1}


def test_dynamos_own_session_replaces_that_of_a_coding_agent() -> None:
    final = {"x-dynamo-session-id": "s", "x-dynamo-session-final": "true"}
    request, reader = said({**final, "x-claude-code-agent-id": "a", "x-parent-session-id": "p"})
    assert reader.heard["session_final"] == 1
    assert request.sampling_params["custom_params"] == {"kvflow_session": "s", "kvflow_last": True}


def test_speculative_prefill_says_that_a_conversation_goes_on() -> None:
    sub_agent = {"x-dynamo-session-id": "run:a", "x-dynamo-parent-session-id": "run"}
    request, reader = said(sub_agent, {"speculative_prefill": True})
    assert request.sampling_params["custom_params"] == {
        "kvflow_session": "run",
        "kvflow_conversation": "run:a",
    }
    assert reader.heard["speculative_prefill"] == 1
    assert said({}, {"speculative_prefill": True})[1].ignored == {"speculative_prefill": 1}
    assert said(sub_agent, {"speculative_prefill": False})[1].heard == {"session": 1}


def test_without_inference_sessions_mean_nothing() -> None:
    headers = {"x-dynamo-session-id": "s", "x-dynamo-session-final": "true"}
    request, reader = said(headers, {"speculative_prefill": True}, interpreter(infer=False))
    assert request.sampling_params == {}
    assert not reader.heard
    assert reader.ignored == {"session": 1, "session_final": 1, "speculative_prefill": 1}


@pytest.mark.parametrize(("sign", "priority"), [(1, 5), (-1, -5), (None, None)])
def test_a_priority_takes_the_order_of_the_server(sign: int | None, priority: int | None) -> None:
    reader = interpreter(priority_sign=sign)
    assert said({}, {"priority": 5}, reader)[0].priority == priority
    assert (reader.heard if sign else reader.ignored) == {"priority": 1}


def test_a_priority_of_the_request_itself_goes_before() -> None:
    request = request_with(priority=1)
    interpreter(priority_sign=1).take_agent_hints(
        request, {}, {"nvext": {"agent_hints": {"priority": 5}}}
    )
    assert request.priority == 1


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("said", "bounded"), [(99, 10), (5, 5), (-99, -2)])
def test_no_priority_leaves_the_operators_bounds(sign: int, said: int, bounded: int) -> None:
    bounds = {"least_priority": -2, "most_priority": 10}
    translated = request_with()
    body = {"nvext": {"agent_hints": {"priority": said}}}
    interpreter(priority_sign=sign, **bounds).take_agent_hints(translated, {}, body)
    assert translated.priority == sign * bounded
    own = request_with(priority=sign * said)
    interpreter(priority_sign=sign, **bounds).take_agent_hints(own, {}, {})
    assert own.priority == sign * bounded
    unordered = request_with(priority=said)
    interpreter(priority_sign=None, **bounds).take_agent_hints(unordered, {}, {})
    assert unordered.priority == said


def test_the_order_is_that_of_sglangs_flags() -> None:
    def sign(enabled: bool, low_first: bool) -> int | None:
        flags = {
            "enable_priority_scheduling": enabled,
            "schedule_low_priority_values_first": low_first,
        }
        return http_process.priority_sign(SimpleNamespace(**flags))

    assert [sign(True, False), sign(True, True), sign(False, True)] == [1, -1, None]


def test_what_says_nothing_of_a_forecast_is_counted_by_name() -> None:
    _, reader = said({}, {"osl": 9, "strict_priority": 1, "latency_sensitivity": 1.0, "iat": 5})
    assert reader.ignored == {"osl": 1, "strict_priority": 1, "latency_sensitivity": 1, "other": 1}
    _, reader = said({}, {"priority": "high"})
    assert reader._refused == {"type": 1}


@given(anything)
def test_nothing_that_clients_send_fails_a_request(value: Any) -> None:
    action = {**OTHER, "action_type": "kvflow.forecast", "payload": value}
    envelopes = [value, {"actions": value}, {"actions": [action]}, [value, {"actions": [action]}]]
    bodies = [value, {"nvext": value}, {"nvext": {"agent_hints": value}}]
    for allows_nesting in (True, False):
        reader, doorman = interpreter(priority_sign=1), Doorman(allows_nesting=allows_nesting)
        for envelope in envelopes:
            for params in PARAMS:
                request = request_with(kv_hints=envelope, sampling_params=params)
                reader.take_envelopes(request, {"kv_hints": envelope})
                doorman.admit(request)
        for body in bodies:
            reader.take_agent_hints(request_with(), {"x-session-id": "s"}, body)
        assert reader._safely.errors == 0
