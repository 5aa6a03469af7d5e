"""Hints that wait for the device to be at work, and what hears them before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.arrivals import MOST_PUT_OFF
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang.mailbox import Mailbox
from kvflow_sglang.standalone import StandaloneCache


class Heard(list[str]):
    def __call__(self, request: Any) -> None:
        self.append(request.text)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def mailbox(heard: Heard) -> Mailbox:
    mailbox = Mailbox(heard)
    for text in ("a", "b", "c"):
        mailbox.put(SimpleNamespace(rid=text, text=text))
    return mailbox


def test_the_first_that_came_are_heard_first(mailbox: Mailbox, heard: Heard) -> None:
    mailbox.hear(2)
    assert heard == ["a", "b"]
    mailbox.hear(2)
    assert heard == ["a", "b", "c"]
    mailbox.hear(2)
    assert heard == ["a", "b", "c"]
    assert len(mailbox) == 0


def test_one_that_is_needed_is_heard_behind_all_before_it(mailbox: Mailbox, heard: Heard) -> None:
    mailbox.hear_to("b")
    assert heard == ["a", "b"]
    mailbox.hear_to("b")
    mailbox.hear_to("unknown")
    assert heard == ["a", "b"]


def test_two_requests_of_one_name_are_both_heard(mailbox: Mailbox, heard: Heard) -> None:
    mailbox.put(SimpleNamespace(rid="b", text="another b"))
    assert heard == ["a", "b"]
    mailbox.hear_all()
    assert heard == ["a", "b", "c", "another b"]


class Server:
    """A cache to which requests come, and in which nothing runs."""

    def __init__(self, host_ratio: float | None = None) -> None:
        self.standalone = StandaloneCache("kvflow", pool_tokens=1000, host_ratio=host_ratio)
        self.cache = self.standalone.cache

    def arrive(self, rid: str, hint: Hint | None) -> Any:
        params = None if hint is None else encode_request(hint)
        request = SimpleNamespace(
            rid=rid,
            sampling_params=SimpleNamespace(custom_params=params),
            session_params=None,
            input_ids=[],
            lora_id=None,
        )
        self.cache.arrived(request)
        return request

    def seq_of(self, workflow: str) -> int:
        seq: int = self.cache.tenants.anonymous.foresight.expected(workflow).seq
        return seq


def hint(workflow: str, seq: int) -> Hint:
    return Hint(workflow, Forecast(seq, {"a": 1}), agent="a")


def test_a_hint_is_heard_before_the_cache_is_shown_its_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    before = server.seq_of("w")
    server.arrive("before", hint("before", 5))
    with monkeypatch.context() as patched:
        patched.setattr(server.cache.mailbox, "hear_all", lambda: None)
        request = server.standalone.arrive(range(50), hint=hint("w", 5))
        server.arrive("after", hint("after", 5))
    assert server.seq_of("w") == before
    server.standalone.serve(request)
    assert server.seq_of("before") == server.seq_of("w") == 5
    assert len(server.cache.mailbox) == 1


def test_forecasts_without_a_request_are_heard_in_their_turn() -> None:
    server = Server()
    server.arrive("1", hint("w", 5))
    assert server.cache.hear(Hint("w", Forecast(4, {"a": 1}))) == "stale"
    assert server.cache.hear(Hint("w", Forecast(6, done=True))) == "accepted"
    server.arrive("2", hint("w", 6))
    assert server.cache.status()["hints_ended"] == 1


def test_a_malformed_hint_is_refused_when_it_is_heard() -> None:
    server = Server()
    request = server.arrive("1", hint("w", 5))
    request.sampling_params.custom_params["kvflow_steps"] = 7
    assert server.cache.status()["hints_refused_type"] == 1


@pytest.mark.parametrize("has_come", [False, True])
def test_nothing_is_loaded_ahead_for_a_workflow_whose_request_has_come(has_come: bool) -> None:
    server = Server(host_ratio=2.0)
    for seq, agent in enumerate("ab"):
        steps = {each: int(each != agent) for each in "ab"}
        told = Hint("w", Forecast(seq, steps), agent=agent)
        server.standalone.run([seq + 1] * 400, [9] * 4, hint=told)
    server.standalone.evict(808)
    if has_come:
        server.arrive("1", Hint("w", Forecast(2, {"a": 0, "b": 1}), agent="a"))
    before = server.cache.prefetcher.counts["prefetched_tokens"]
    for _ in range(MOST_PUT_OFF + 2):
        server.standalone.one_pass()
    loaded = server.cache.prefetcher.counts["prefetched_tokens"] - before
    assert loaded == 0 if has_come else loaded > 0
