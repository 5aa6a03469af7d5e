"""What became of each hinted call, to the token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from kvflow_agents.call_receipt import Admission, Call, Doubt, Predicted
from kvflow_agents.expectations import Expectations
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Heard, Outcome
from kvflow_agents.hints import Hint
from kvflow_agents.receipts import MAX_PAGE, ReceiptLimits, Receipts

ACCEPTED = Heard("accepted")
COLD = Admission(100, 0, 0, 0, waited=False)
NO_SUMS = {
    "calls": 0,
    "accepted": 0,
    "stale": 0,
    "ended": 0,
    "distrusted": 0,
    "clipped": 0,
    "forecast_right": 0,
    "forecast_wrong": 0,
    "prompt_tokens": 0,
    "device_tokens": 0,
    "host_tokens": 0,
    "prefetched_tokens": 0,
    "lost_tokens": 0,
    "late_tokens": 0,
    "wasted_tokens": 0,
    "waits": 0,
}


class Server:
    """Receipts that are fed as a scheduler feeds them."""

    def __init__(self, **limits: int) -> None:
        self.receipts = Receipts(ReceiptLimits(**limits))
        self.expected = Expectations()
        self.seq = 0

    def hint(
        self,
        agent: str | None,
        steps: Mapping[str, int | None] | None = None,
        workflow: str = "w",
        **more: Any,
    ) -> Hint:
        self.seq += 1
        return Hint(workflow, Forecast(self.seq, steps or {}, **more), agent=agent, app="app")

    def call(
        self,
        agent: str | None,
        steps: Mapping[str, int | None] | None = None,
        admission: Admission = COLD,
        *,
        workflow: str = "w",
        outcome: Outcome = "accepted",
        doubt: Doubt | None = None,
        forecast_right: bool | None = None,
        predicted: Predicted = Predicted(),  # noqa: B008
    ) -> Call | None:
        hint = self.hint(agent, steps, workflow)
        request_id = str(self.seq)
        if outcome == "accepted":
            self.expected.take_in(hint.forecast)
        self.arrived(request_id, hint, Heard(outcome, forecast_right, predicted), doubt)
        return self.receipts.admitted(request_id, admission)

    def arrived(
        self,
        request_id: str,
        hint: Hint,
        heard: Heard = ACCEPTED,
        doubt: Doubt | None = None,
    ) -> None:
        self.receipts.arrived(request_id, hint, heard, doubt=doubt)

    def workflow(self, name: str = "w", **page: int) -> dict[str, Any]:
        found = self.receipts.workflow(name, self.expected, **page)
        assert found is not None
        return found

    def agents(self, name: str = "w", **page: int) -> list[str]:
        return [row["agent"] for row in self.workflow(name, **page)["agents"]]


def test_a_call_is_kept_as_it_was_admitted() -> None:
    server = Server()
    server.call("a", {"a": 0, "b": 1, "c": None})
    call = server.call(
        "b",
        {"a": 1, "b": None},
        Admission(90, 50, 20, 30, waited=True),
        forecast_right=True,
        predicted=Predicted(1, 50, -7),
    )
    assert call is not None
    sums_of_b = {
        **NO_SUMS,
        "calls": 1,
        "accepted": 1,
        "forecast_right": 1,
        "prompt_tokens": 90,
        "device_tokens": 50,
        "host_tokens": 20,
        "prefetched_tokens": 30,
        "waits": 1,
    }
    sums = {**sums_of_b, "calls": 2, "accepted": 2, "prompt_tokens": 190}
    assert server.workflow() == {
        "workflow": "w",
        "app": "app",
        "seq": 2,
        "done": False,
        "known_agents": 2,
        "sums": sums,
        "expected": [{"agent": "a", "steps": 1}],
        "agents": [
            {
                "agent": "b",
                "steps": None,
                "sums": sums_of_b,
                "last_calls": [
                    {
                        "seq": 2,
                        "hint": "accepted",
                        "reason": None,
                        "forecast_right": True,
                        "predicted_steps": 1,
                        "predicted_due_ms": 50,
                        "late_ms": -7,
                        "prompt_tokens": 90,
                        "device_tokens": 50,
                        "host_tokens": 20,
                        "prefetched_tokens": 30,
                        "waited": True,
                        "lost_tokens": 0,
                        "late_tokens": 0,
                        "clipped": False,
                        "wasted_tokens": 0,
                    }
                ],
            },
            {
                "agent": "a",
                "steps": 1,
                "sums": {**NO_SUMS, "calls": 1, "accepted": 1, "prompt_tokens": 100},
                "last_calls": [
                    {
                        "seq": 1,
                        "hint": "accepted",
                        "reason": None,
                        "forecast_right": None,
                        "predicted_steps": None,
                        "predicted_due_ms": None,
                        "late_ms": None,
                        "prompt_tokens": 100,
                        "device_tokens": 0,
                        "host_tokens": 0,
                        "prefetched_tokens": 0,
                        "waited": False,
                        "lost_tokens": 0,
                        "late_tokens": 0,
                        "clipped": False,
                        "wasted_tokens": 0,
                    }
                ],
            },
        ],
    }
    assert json.loads(json.dumps(server.workflow())) == server.workflow()
    assert call.as_json() == server.workflow()["agents"][0]["last_calls"][0]


def test_forecasts_are_counted_by_whether_they_came_true() -> None:
    server = Server()
    for forecast_right in (None, True, False, False):
        server.call("a", forecast_right=forecast_right)
    sums = server.workflow()["sums"]
    assert (sums["forecast_right"], sums["forecast_wrong"]) == (1, 2)


@pytest.mark.parametrize(
    ("outcome", "reason"), [("stale", "newer_heard"), ("ended", "workflow_ended")]
)
def test_a_hint_that_was_not_taken_changes_no_forecast(outcome: Outcome, reason: str) -> None:
    server = Server()
    server.call("a", {"b": 1})
    server.call("b", {"b": None}, outcome=outcome)
    found = server.workflow()
    assert (found["seq"], found["expected"]) == (1, [{"agent": "b", "steps": 1}])
    assert (found["sums"][outcome], found["sums"]["forecast_right"]) == (1, 0)
    call = found["agents"][0]["last_calls"][0]
    assert (call["hint"], call["reason"]) == (outcome, reason)


def test_a_distrusted_call_is_not_counted_as_accepted() -> None:
    server = Server()
    server.call("a", doubt="guard_tripped")
    found = server.workflow()
    sums = found["sums"]
    assert (sums["distrusted"], sums["accepted"], sums["calls"]) == (1, 0, 1)
    assert found["agents"][0]["last_calls"][0]["reason"] == "guard_tripped"


def test_calls_whose_tenant_has_more_than_its_share_are_counted() -> None:
    server = Server()
    server.call("a", admission=COLD._replace(clipped=True))
    server.call("a")
    found = server.workflow()
    assert found["sums"]["clipped"] == 1
    assert [call["clipped"] for call in found["agents"][0]["last_calls"]] == [False, True]


def test_a_forecast_without_a_request_is_no_call() -> None:
    server = Server()
    server.call("a", {"a": 1})
    server.receipts.heard(server.hint(None, done=True), "accepted")
    found = server.workflow()
    assert (found["done"], found["seq"], found["sums"]["calls"]) == (True, 2, 1)


def test_a_call_counts_once_however_often_it_is_prefilled() -> None:
    server = Server()
    server.arrived("r", server.hint("a"))
    assert server.receipts.is_under_way("r")
    assert server.workflow()["sums"]["calls"] == 0
    for _ in range(3):
        server.receipts.admitted("r", COLD)
        assert not server.receipts.is_under_way("r")
    assert server.receipts.admitted("unhinted", COLD) is None
    assert server.receipts.totals.calls == server.workflow()["sums"]["calls"] == 1


def test_the_samples_of_one_request_are_one_call_that_of_the_first() -> None:
    server = Server(most_under_way=4)
    asked = server.hint("a", {"b": 1})._replace(at_ms=7)
    heard = [ACCEPTED, *[Heard("stale")] * 2]
    for number, each in enumerate(heard):
        is_first = server.receipts.arrived(f"sample {number}", asked, each)
        assert is_first == (number == 0)
        call = server.receipts.admitted(
            f"sample {number}", Admission(100, 60 * number, 0, 0, False)
        )
        # What the client is told is that of the first, by whichever of them it comes.
        assert call is not None and call.admission == COLD
    sums = server.workflow()["sums"]
    assert (sums["calls"], sums["stale"], sums["device_tokens"]) == (1, 0, 0)
    # A client that repeats itself makes calls of their own, and is told so.
    for at_ms in range(8, 20):
        server.arrived(str(at_ms), asked._replace(at_ms=at_ms), Heard("stale"))
        server.receipts.admitted(str(at_ms), COLD)
    assert server.workflow()["sums"]["stale"] == 12
    assert len(server.receipts._asked) == 4


def test_what_was_loaded_in_vain_counts_at_once_and_is_named_at_the_next_call() -> None:
    server = Server()
    server.call("a")
    for tokens in (30, 12):
        server.receipts.wasted("w", "a", tokens)
    assert server.workflow()["sums"]["wasted_tokens"] == 42
    server.call("a", admission=Admission(100, 60, 0, 60, waited=True, late_tokens=60))
    server.call("a")
    (agent,) = server.workflow()["agents"]
    assert [call["wasted_tokens"] for call in agent["last_calls"]] == [0, 42, 0]
    assert [call["late_tokens"] for call in agent["last_calls"]] == [0, 60, 0]
    assert (agent["sums"]["wasted_tokens"], agent["sums"]["late_tokens"]) == (42, 60)


def test_what_was_loaded_in_vain_for_an_agent_that_never_called_is_its_own() -> None:
    server = Server(most_agents=2)
    server.call("a")
    server.receipts.wasted("w", "b", 7)
    sums = {row["agent"]: row["sums"] for row in server.workflow()["agents"]}
    assert (sums["a"]["wasted_tokens"], sums["b"]["wasted_tokens"], sums["b"]["calls"]) == (0, 7, 0)
    server.receipts.wasted("w", "c", 7)
    assert server.agents() == ["c", "b"]
    server.receipts.wasted("forgotten", "a", 5)
    assert server.receipts.about("forgotten") is None
    assert server.receipts.totals.wasted_tokens == 19


def test_a_call_of_no_agent_counts_for_its_workflow() -> None:
    server = Server()
    assert server.call(None) is None
    assert server.workflow()["sums"]["calls"] == 1
    assert server.agents() == []


def test_only_the_last_calls_are_kept_newest_first() -> None:
    server = Server(last_calls=2)
    for _ in range(5):
        server.call("a")
    (agent,) = server.workflow()["agents"]
    assert [call["seq"] for call in agent["last_calls"]] == [5, 4]
    assert agent["sums"]["calls"] == 5


def test_workflows_are_listed_newest_first_in_pages() -> None:
    server = Server()
    for number in range(300):
        server.call("a", workflow=f"w{number}")
    server.call("a", workflow="w7")
    page = server.receipts.workflows(limit=10_000)
    assert page["total"] == 300
    names = [row["workflow"] for row in page["workflows"]]
    assert names == ["w7", *(f"w{299 - each}" for each in range(MAX_PAGE - 1))]
    second = server.receipts.workflows(offset=2, limit=1)["workflows"]
    assert [(row["workflow"], row["sums"]["calls"]) for row in second] == [("w298", 1)]
    assert server.receipts.workflows(offset=1000)["workflows"] == []


def test_agents_are_listed_by_their_last_call_in_pages() -> None:
    server = Server()
    steps = {f"a{number}": number for number in range(1000)}
    for agent in steps:
        server.call(agent, steps)
    server.call("a3", steps)
    assert server.agents(limit=3) == ["a3", "a999", "a998"]
    assert server.agents(offset=2, limit=2) == ["a998", "a997"]
    found = server.workflow(limit=10_000)
    assert len(found["agents"]) == len(found["expected"]) == MAX_PAGE
    assert found["expected"][:2] == [{"agent": "a0", "steps": 0}, {"agent": "a1", "steps": 1}]


def test_an_unknown_workflow_has_no_receipts() -> None:
    assert Receipts().workflow("w", Expectations()) is None


def test_the_workflow_that_was_silent_longest_is_forgotten() -> None:
    server = Server(most_workflows=2)
    server.call("a", workflow="one")
    server.call("a", workflow="two")
    server.call("a", workflow="one")
    server.call("a", workflow="three")
    assert server.receipts.about("two") is None
    assert server.receipts.workflows()["total"] == 2
    assert server.receipts.totals.calls == 4


def test_agents_are_bounded_over_all_workflows_and_in_one() -> None:
    server = Server(most_agents=3)
    server.call("a", workflow="old")
    for agent in "abc":
        server.call(agent)
    assert server.receipts.about("old") is None
    server.call("a")
    server.call("d")
    assert server.agents() == ["d", "a", "c"]


def test_calls_that_are_never_admitted_are_bounded() -> None:
    server = Server(most_under_way=2)
    for request_id in "abc":
        server.arrived(request_id, server.hint("a"))
    assert [server.receipts.is_under_way(request_id) for request_id in "abc"] == [False, True, True]


def test_a_workflow_forgotten_while_its_call_is_under_way_still_counts_in_all() -> None:
    server = Server(most_workflows=1)
    server.arrived("r", server.hint("a"))
    server.call("a", workflow="another")
    server.receipts.admitted("r", COLD)
    assert server.receipts.totals.calls == 2
    assert server.receipts.about("w") is None
