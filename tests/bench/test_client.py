from __future__ import annotations

import json
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, decode_request
from kvflow_bench.client import Answer, ServerCallError, generate_body, read_answer
from kvflow_bench.protocol import columns

META = {"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 6}
END = b"data: [DONE]\n"


def event(output: list[int], **meta: Any) -> bytes:
    return b"data: " + json.dumps({"output_ids": output, "meta_info": META | meta}).encode()


def test_a_call_has_a_fixed_length_and_carries_its_hint() -> None:
    hint = Hint("w", Forecast(3, {"a": 0, "b": 1}), agent="a", app="graph")
    body = json.loads(generate_body([1, 2], 7, hint))
    sampling = body["sampling_params"]
    assert (body["input_ids"], body["stream"]) == ([1, 2], True)
    assert sampling["max_new_tokens"] == 7
    assert (sampling["temperature"], sampling["ignore_eos"]) == (0, True)
    assert decode_request(sampling["custom_params"]) == hint
    assert "custom_params" not in json.loads(generate_body([1], 7, None))["sampling_params"]


@pytest.mark.parametrize("pieces", [[[5], [5, 6, 7]], [[5], [6], [7]]])
def test_an_answer_is_read_from_whole_and_from_incremental_streams(
    pieces: list[list[int]],
) -> None:
    details = {"cached_tokens_details": {"device": 2, "host": 4}}
    *first, last = pieces
    events = [*map(event, first), event(last, **details), END]
    answer = read_answer(events, first_token_s=0.2, latency_s=0.6)
    assert answer == Answer(0.6, 0.2, 9, 6, 4, [5, 6, 7])
    assert answer.inter_token_s == pytest.approx(0.2)


def test_columns_split_what_was_cached_by_tier() -> None:
    answers = [Answer(0.6, 0.2, 9, 6, 4, [5, 6, 7]), Answer(0.1, 0.1, 9, 0, 0, [5])]
    made = columns(answers)
    hashes = made.pop("output_hash")
    assert hashes[0] != hashes[1] and len(hashes[0]) == 8
    assert made == {
        "latency_ms": [600.0, 100.0],
        "ttft_ms": [200.0, 100.0],
        "inter_token_ms": [200.0, None],
        "prompt_tokens": [9, 9],
        "device_tokens": [2, 0],
        "host_tokens": [4, 0],
        "output_tokens": [3, 1],
    }


def test_a_stream_without_an_answer_is_an_error() -> None:
    with pytest.raises(ServerCallError, match="before its first token"):
        read_answer([END], first_token_s=0.0, latency_s=0.0)
    refused = b'data: {"error": {"message": "too long"}}'
    with pytest.raises(ServerCallError, match="too long"):
        read_answer([refused, END], first_token_s=0.0, latency_s=0.0)
    aborted = event([], finish_reason={"type": "abort", "message": "no room"})
    with pytest.raises(ServerCallError, match="no room"):
        read_answer([aborted, END], first_token_s=0.0, latency_s=0.0)
