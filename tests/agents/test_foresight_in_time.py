"""Claims ordered by when their agents will call, on the clock of the messages."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import pytest

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.call_receipt import Predicted
from kvflow_agents.eviction import Standing
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Foresight
from kvflow_agents.hints import Hint
from kvflow_agents.known_workflow import OVERDUE
from kvflow_agents.pace import STEP_MS
from kvflow_agents.reuse import MessageClock, Order, Reuse
from tests.agents.radix_tree import RadixTree, TreeNode, path

A, B = [1, 2, 3], [4, 5, 6]
PROMPTS = {"a": A, "b": B}


class Server:
    """A tree whose messages are stamped."""

    def __init__(self, order: Order = "time") -> None:
        self.tree = RadixTree(1)
        self.seq = 0
        self.foresight: Foresight[TreeNode] = Foresight(
            self.tree.ledger,
            make_key=self.tree.make_key,
            cut=self.tree.cut,
            lifetime_tokens=1000,
            reuse=Reuse(MessageClock(lambda: 0.0), order=order),
        )

    def say(
        self,
        at_ms: int,
        steps: Mapping[str, int | None],
        caller: str | None = None,
        workflow: str = "w",
        due_ms: Mapping[str, int] | None = None,
        chance: Mapping[str, int] | None = None,
        *,
        changes: bool = False,
    ) -> Hint:
        self.seq += 1
        forecast = Forecast(
            self.seq, steps, due_ms=due_ms or {}, chance=chance or {}, changes=changes
        )
        hint = Hint(workflow, forecast, agent=caller, at_ms=at_ms)
        assert self.foresight.hear(hint).outcome == "accepted"
        self.foresight.check()
        return hint

    def call(
        self,
        at_ms: int,
        agent: str,
        steps: Mapping[str, int | None],
        prompt: list[int] | None = None,
        *,
        changes: bool = False,
        **said: Mapping[str, int],
    ) -> None:
        hint = self.say(
            at_ms,
            steps,
            agent,
            due_ms=said.get("due_ms"),
            chance=said.get("chance"),
            changes=changes,
        )
        tokens = array("q", PROMPTS[agent] if prompt is None else prompt)
        leaf = self.tree.grow(path(tokens), "w")
        self.foresight.prompt_cached(hint, tokens, Namespace(), leaf)
        self.foresight.check()

    def due(self, prompt: list[int]) -> int | None:
        node, _ = self.tree.walk(path(prompt))
        standing, distance = self.tree.ledger.standing(node)
        assert (standing is Standing.EXPECTED) == (distance is not None)
        return distance


@pytest.fixture
def server() -> Server:
    made = Server()
    made.call(0, "a", {"a": 0, "b": 1})
    made.call(0, "b", {"b": 0, "a": 1})
    return made


def test_who_is_due_is_needed_then(server: Server) -> None:
    server.say(10_000, {"a": 1, "b": 2}, due_ms={"a": 500, "b": 40_000})
    assert (server.due(A), server.due(B)) == (10_500, 50_000)


def test_a_time_that_has_hardly_moved_is_the_same(server: Server) -> None:
    server.say(10_000, {"a": 1, "b": 2}, due_ms={"a": 16_000, "b": 40_000})
    # A sixteenth of the new wait.
    for moved_ms, due_ms in ((999, 26_000), (1001, 27_001), (-882, 26_000), (-883, 25_117)):
        server.say(11_000, {"a": 1, "b": 2}, due_ms={"a": 15_000 + moved_ms, "b": 39_000})
        assert server.due(A) == due_ms
        server.say(11_000, {"a": None, "b": 2}, due_ms={"b": 39_000})
        server.say(11_000, {"a": 1, "b": 2}, due_ms={"a": 15_000, "b": 39_000})


def test_a_call_that_comes_near_is_expected_to_the_millisecond(server: Server) -> None:
    for at_ms in range(10_000, 19_500, 500):
        server.say(at_ms, {"a": 1, "b": 2}, due_ms={"a": 20_000 - at_ms, "b": 40_000})
    server.say(19_500, {"a": 1, "b": 2}, due_ms={"a": 540, "b": 40_000})
    assert server.due(A) == 20_040


def test_without_a_time_steps_go_at_the_pace_of_the_workflow(server: Server) -> None:
    server.say(10_000, {"a": 1, "b": 3})
    assert (server.due(A), server.due(B)) == (10_000 + STEP_MS, 10_000 + 3 * STEP_MS)
    for turn in range(100):
        server.call(20_000 + 4000 * turn, "ab"[turn % 2], {"ab"[turn % 2]: 0, "ba"[turn % 2]: 1})
    now_ms = 20_000 + 4000 * 99
    server.say(now_ms, {"a": 2, "b": 3})
    due_ms = server.due(A)
    assert due_ms is not None
    # What was said before the pace was known is nearly forgotten.
    assert due_ms - now_ms == pytest.approx(2 * 4000, rel=0.3)


def test_what_is_needed_with_a_chance_of_a_half_is_needed_after_twice_as_long(
    server: Server,
) -> None:
    server.say(10_000, {"a": 1, "b": 1}, due_ms={"a": 1000, "b": 1000}, chance={"a": 50})
    assert (server.due(A), server.due(B)) == (12_000, 11_000)


def test_nobody_is_too_unlikely_to_have_a_time(server: Server) -> None:
    server.say(10_000, {"a": 1, "b": 1}, due_ms={"a": 1000}, chance={"a": 0})
    assert server.due(A) == 10_000 + 100_000


def test_who_no_step_leads_to_may_still_have_a_time(server: Server) -> None:
    server.say(10_000, {"a": None, "b": None}, due_ms={"a": 60_000}, chance={"a": 100})
    assert (server.due(A), server.due(B)) == (70_000, None)


def test_who_is_overdue_is_expected_later_with_each_message(server: Server) -> None:
    server.say(5000, {"a": None, "b": None})
    server.call(10_000, "b", {"a": 1, "b": 0}, due_ms={"a": 1000})
    server.call(16_000, "b", {"a": 1, "b": 0}, due_ms={"a": 1000})
    assert server.due(A) == 16_000 + 6000


def test_by_steps_the_clock_does_not_matter() -> None:
    server = Server("steps")
    server.call(0, "a", {"a": 0, "b": 1})
    server.call(0, "b", {"b": 0, "a": 1})
    server.say(10_000, {"a": 1, "b": 2}, due_ms={"a": 90_000, "b": 500})
    assert (server.due(A), server.due(B)) == (1, 2)


def test_a_history_that_begins_anew_at_times_is_kept_by_how_often_it_grows() -> None:
    server = Server()
    grown = [*A]
    for turn in range(20):
        grown = [*A, turn] if turn % 2 == 0 else [*grown, 50 + turn]
        server.call(1000 * turn, "a", {"a": 0}, prompt=grown)
    now_ms = 1000 * 20
    server.say(now_ms, {"a": 1}, due_ms={"a": 1000})
    # In any case its beginning comes back; all of it about every second time.
    assert server.due(A) == pytest.approx(now_ms + 1000, abs=300)
    whole = server.due(grown)
    assert whole is not None
    assert now_ms + 1300 < whole < now_ms + 4000


def test_what_a_run_has_said_is_not_needed_by_calls_of_later_runs() -> None:
    server = Server()
    for run in range(8):
        now_ms, said = 10_000 * run, [*A, 10 + run]
        server.call(now_ms, "a", {"a": 1}, prompt=said)
        server.call(now_ms + 1000, "a", {"a": 1}, prompt=[*said, 5])
        if run < 7:
            server.say(now_ms + 2000, {"a": None})
    for steps, is_this_run in ((1, True), (None, False)):
        server.say(73_000, {"a": steps, "b": 0}, "b", due_ms={"a": 5000})
        beginning, whole = server.due(A), server.due([*said, 5])
        assert beginning is not None and whole is not None
        assert (whole - beginning < 5000) == is_this_run
        assert (whole > 73_000 + 100_000) == (not is_this_run)


def test_what_nobody_expects_between_runs_is_not_wrong_when_the_workflow_goes_on() -> None:
    server = Server()
    for run in range(10):
        server.call(10_000 * run, "a", {"a": 0})
        server.say(10_000 * run + 1, {"a": None})
    assert server.foresight.is_trusted("w")


def test_whoever_calls_in_the_midst_of_a_run_that_excluded_it_is_wrong() -> None:
    server = Server()
    for run in range(10):
        server.call(10_000 * run, "a", {"a": None})
    assert not server.foresight.is_trusted("w")


def test_who_is_overdue_is_expected_the_later_the_longer_it_is_waited_for(server: Server) -> None:
    server.call(1000, "b", {"b": 0, "a": 1}, due_ms={"a": 500, "b": 90_000})
    assert server.due(A) == 1500
    server.say(1499, {"x": 1}, workflow="other")
    assert server.due(A) == 1500
    server.say(3000, {"x": 1}, workflow="other")
    assert server.due(A) == 3000 + 2000 * OVERDUE
    server.say(11_000, {"x": 1}, workflow="other")
    assert server.due(A) == 11_000 + 10_000 * OVERDUE


def test_an_ended_workflow_is_not_overdue(server: Server) -> None:
    server.call(1000, "b", {"b": 0, "a": 1}, due_ms={"a": 500, "b": 90_000})
    done = Hint("w", Forecast(100, done=True), at_ms=1100)
    assert server.foresight.hear(done).outcome == "accepted"
    server.say(3000, {"x": 1}, workflow="other")
    assert server.due(A) is None


def test_by_steps_nobody_is_overdue() -> None:
    server = Server("steps")
    server.call(0, "a", {"a": 0, "b": 1})
    server.call(0, "b", {"b": 0, "a": 1}, due_ms={"a": 500})
    server.say(60_000, {"x": 1}, workflow="other")
    assert server.due(A) == 1


def test_what_was_said_of_a_call_is_told_with_how_late_it_was() -> None:
    server = Server()
    heard: list[Predicted] = []

    def say(at_ms: int, forecast: Forecast, caller: str | None) -> None:
        hint = Hint("w", forecast, agent=caller, at_ms=at_ms)
        heard.append(server.foresight.hear(hint).predicted)

    say(1000, Forecast(1, {"a": 0, "b": 2, "c": 3}, due_ms={"b": 700, "c": 900}), "a")
    changed = Forecast(2, {"c": 4}, due_ms={"c": 2000}, changes=True)
    say(1500, changed, None)
    say(2000, Forecast(3, {"a": 5}, changes=True), "b")
    say(3400, Forecast(4, {"a": 6}, changes=True), "c")
    say(3500, Forecast(5, {"a": 1}), "a")
    say(3600, Forecast(6, {"a": 1}), "nobody told of")
    assert heard == [
        *(Predicted(), Predicted()),
        Predicted(2, 700, 2000 - 1000 - 700),
        # The change came later, and counts from then on.
        Predicted(4, 2000, 3400 - 1500 - 2000),
        Predicted(6, None, None),
        Predicted(),
    ]


def test_when_changes_came_is_kept_of_no_more_agents_than_have_a_time() -> None:
    server = Server()
    for seq in range(500):
        gone: dict[str, int | None] = {f"a{seq - 1}": None, f"a{seq}": 1}
        told = Forecast(seq + 1, gone, due_ms={f"a{seq}": 5}, changes=True)
        server.foresight.hear(Hint("w", told, at_ms=seq))
    known = server.foresight._memory.find("w")
    assert known is not None and len(known.said_ms) < 70


def tick(server: Server, at_ms: int, steps: Mapping[str, int | None]) -> None:
    server.say(at_ms, steps, changes=True)


@pytest.fixture
def town() -> Server:
    """A simulation in which a tick takes 4 s, and agents call one right after the other."""
    made = Server()
    for at_ms, agent in ((0, "a"), (20, "b")):
        made.call(at_ms, agent, {agent: 0}, changes=True)
    tick(made, 4000, {"a": 1, "b": 3})
    tick(made, 8000, {"a": 0, "b": 2})
    return made


def test_steps_of_a_simulation_are_ticks_however_fast_its_calls_follow_each_other(
    town: Server,
) -> None:
    assert (town.due(A), town.due(B)) == (8000 + 2000, 8000 + 8000)
    for at_ms in range(8000, 9000, 10):
        town.call(at_ms, "a", {"a": 0}, changes=True)
    tick(town, 12_000, {"a": 5, "b": 1})
    assert (town.due(A), town.due(B)) == (12_000 + 20_000, 12_000 + 4000)


def test_who_has_called_in_a_tick_is_needed_after_who_calls_in_this_or_the_next(
    town: Server,
) -> None:
    tick(town, 12_000, {"a": 0, "b": 1})
    town.call(12_100, "a", {"a": 0}, changes=True)
    town.say(12_100, {"b": 1}, changes=True, caller="c")
    due_a, due_b = town.due(A), town.due(B)
    assert due_a is not None and due_b is not None
    assert due_b < due_a
    # The next tick changes nothing for it: it calls again.
    town.call(12_200, "b", {"b": 0}, changes=True)
    tick(town, 16_000, {"c": 1})
    assert [town.due(A), town.due(B)] == pytest.approx([18_000, 18_000], abs=100)
