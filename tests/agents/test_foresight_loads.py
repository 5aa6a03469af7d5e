"""Whose prefixes are wanted ahead: who is at work, and who will likely call next."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import pytest

from kvflow_agents.app_prompts import Namespace
from kvflow_agents.claims import Claim
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Foresight
from kvflow_agents.hints import Hint
from kvflow_agents.prefetch import Load, PrefetchQueue, Span
from kvflow_agents.reuse import MessageClock, Order, Reuse
from tests.agents.radix_tree import RadixTree, TreeNode, path

AGENTS = ("plan", "write", "check")
PROMPTS = {
    agent: range(first, first + 20) for first, agent in zip((0, 100, 200), AGENTS, strict=True)
}
# From `plan` a branch leads to both.
STEPS = {"plan": 0, "write": 1, "check": 1}


class Server:
    """Hears of the runs of one application, one second between two messages."""

    def __init__(self, order: Order) -> None:
        self.tree = RadixTree(1)
        self.now_ms = 0
        self.queue: PrefetchQueue[TreeNode] = PrefetchQueue(
            horizon_steps=1, most_agents=4, most_tokens=1000
        )
        self.foresight: Foresight[TreeNode] = Foresight(
            self.tree.ledger,
            make_key=self.tree.make_key,
            cut=self.tree.cut,
            lifetime_tokens=1000,
            prefetch=self.queue,
            reuse=Reuse(MessageClock(lambda: 0.0), order=order),
        )

    def call(
        self,
        agent: str,
        steps: Mapping[str, int | None],
        due_ms: Mapping[str, int] | None = None,
        run: str = "run",
    ) -> None:
        hint = self._say(run, agent, Forecast(self.now_ms, steps, due_ms=due_ms or {}))
        tokens = array("q", PROMPTS[agent])
        self.foresight.prompt_cached(
            hint, tokens, Namespace(), self.tree.grow(path(list(tokens)), run)
        )
        self.foresight.check()

    def tell(self, steps: Mapping[str, int | None]) -> None:
        """What has changed between two calls."""
        self._say("run", None, Forecast(self.now_ms, steps, changes=True))

    def end(self, run: str = "run") -> None:
        self._say(run, None, Forecast(self.now_ms, done=True))

    def take_turns(self, agents: Sequence[str], run: str = "run") -> None:
        """After `plan` one of both is called, each time as said."""
        for agent in agents:
            self.call("plan", STEPS, run=run)
            self.call(agent, {agent: 0, "plan": 1}, run=run)

    def _say(self, run: str, agent: str | None, forecast: Forecast) -> Hint:
        self.now_ms += 1000
        forecast = forecast._replace(seq=self.now_ms)
        hint = Hint(run, forecast, agent=agent, app="app", at_ms=self.now_ms)
        assert self.foresight.hear(hint).outcome == "accepted"
        return hint

    def wanted(self) -> set[str]:
        """Whose prefixes would be loaded now, had the device nothing of them."""
        loaded: set[str] = set()

        def missing(claim: Claim[TreeNode]) -> Span:
            return 0, claim.depth_tokens

        def reserve(load: Load[TreeNode]) -> int:
            assert load.claim.holder is not None
            loaded.add(load.claim.holder[1])
            return load.tokens

        self.queue.fill(missing, lambda load: load.tokens, reserve, now_ms=self.now_ms)
        return loaded


@pytest.fixture
def server() -> Server:
    return known(Server("time"))


def known(server: Server) -> Server:
    """It has seen each agent's prompt."""
    server.take_turns(["write", "check"])
    return server


def test_both_ways_of_a_branch_are_wanted_while_both_are_taken(server: Server) -> None:
    server.take_turns(["write", "check"] * 3)
    server.call("plan", STEPS)
    assert server.wanted() == {"write", "check"}


def test_a_way_that_is_hardly_taken_is_not_wanted_until_it_is(server: Server) -> None:
    server.take_turns(["write"] * 6)
    server.call("plan", STEPS)
    assert server.wanted() == {"write"}
    server.call("check", {"check": 0, "plan": 1})
    server.take_turns(["check"] * 6)
    server.call("plan", STEPS)
    assert "check" in server.wanted()


def test_other_runs_of_the_application_are_learned_from(server: Server) -> None:
    server.call("plan", STEPS)
    assert "check" in server.wanted()
    server.take_turns(["check", *["write"] * 6], run="another")
    server.call("plan", STEPS)
    assert "check" not in server.wanted()


def test_runs_that_end_instead_call_nobody(server: Server) -> None:
    for number in range(4):
        run = f"short{number}"
        server.call("write", {"write": 0}, run=run)
        server.call("plan", {"plan": 0, "write": 1}, run=run)
        server.end(run)
    server.call("plan", {"plan": 0, "write": 1})
    assert server.wanted() == set()


def test_who_is_due_much_later_than_the_first_is_not_wanted(server: Server) -> None:
    server.call("plan", STEPS, due_ms={"write": 500, "check": 20_000})
    assert server.wanted() == {"write"}


def test_who_is_at_work_is_wanted_whatever_was_before(server: Server) -> None:
    server.take_turns(["write"] * 6)
    server.call("plan", {"plan": 0, "write": 0, "check": 0})
    assert server.wanted() == {"write", "check"}


def test_who_is_at_work_by_a_later_message_was_next(server: Server) -> None:
    write_next = {"plan": 0, "write": 1}
    for _ in range(5):
        server.call("plan", write_next)
        server.tell({"write": None})
    server.call("plan", write_next)
    assert server.wanted() == set()
    for _ in range(5):
        server.call("plan", write_next)
        server.tell({"write": 0})
    server.call("plan", write_next)
    assert server.wanted() == {"write"}


def test_by_steps_all_who_are_one_step_away_are_wanted() -> None:
    server = known(Server("steps"))
    server.take_turns(["write"] * 6)
    server.call("plan", STEPS)
    assert server.wanted() == {"write", "check"}
