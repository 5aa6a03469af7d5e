"""What is forgotten beyond the limits, and what that leaves of its KV."""

from __future__ import annotations

import pytest

from kvflow_agents.workflow_memory import Limits
from tests.agents.foresight_server import LIFETIME, ORDINARY, Server, expected, run_of_app


def test_of_the_only_workflow_the_agents_silent_longest_are_forgotten() -> None:
    server = Server(Limits(most_tokens=8))
    server.hear("w", 0, {"a": 1, "b": 1, "c": 1}, changes=True)
    server.call("w", "a", "AAAA")
    server.call("w", "b", "BBBB")
    server.call("w", "a", "AAAA")
    server.call("w", "c", "CCCC")
    assert (server.standing("AAAA"), server.standing("CCCC")) == (expected(1), expected(1))
    assert server.standing("BBBB") == ORDINARY
    assert (server.foresight.workflows, server.foresight.agents) == (1, 2)


def test_beyond_most_agents_told_the_workflow_silent_longest_is_forgotten() -> None:
    server = Server(Limits(most_agents_told=5))
    server.hear("a", 0, {"1": 1, "2": 1})
    server.hear("b", 0, {"1": 1, "2": 1}, changes=True)
    assert server.foresight.workflows == 2
    server.hear("b", 1, {"3": 1, "4": 1}, changes=True)
    assert server.foresight.workflows == 1
    assert server.hear("b", 1, {}) == "stale"


def test_beyond_most_workflows_the_one_silent_longest_is_forgotten() -> None:
    server = Server(Limits(most_workflows=2))
    for name in "abc":
        server.hear(name, 0, {name: 1})
        server.call(name, name, name * 4)
    assert server.foresight.workflows == 2
    # It may well go on: unlike that of an ended workflow, its prefix is not known to be spent.
    assert server.standing("aaaa") == ORDINARY
    assert server.standing("bbbb") == expected(1)
    server.hear("b", 1, {"b": 1})
    server.hear("d", 0)
    assert server.standing("bbbb") == expected(1)
    assert server.standing("cccc") == ORDINARY


def test_expired_workflows_are_forgotten_before_live_ones() -> None:
    server = Server(Limits(most_workflows=2))
    server.hear("a", 0, {"a": 1})
    server.foresight.turn_over(LIFETIME + 1)
    server.hear("b", 0, {"b": 1})
    server.hear("c", 0)
    assert server.foresight.workflows == 2
    assert server.hear("a", 0) == "accepted"  # as if never heard of


def test_too_many_workflows_cost_no_app_what_it_has_learned() -> None:
    server = Server(Limits(most_workflows=1))
    for app in ("app", "other"):
        run_of_app(server, f"{app} one", f"{app} A", app=app)
        run_of_app(server, f"{app} two", f"{app} B", app=app)
    server.hear("silent", 0)
    server.hear("next", 0)
    server.hear("now", 0, {"writer": 3}, app="app")
    assert server.foresight.workflows == 1
    assert server.standing("You write. Do app ") == expected(3)


def test_ended_workflows_are_remembered_only_so_far_back() -> None:
    server = Server(Limits(most_workflows=3))
    for number in range(10):
        server.hear(f"w{number}", 0, done=True)
    assert len(server.foresight._memory._ended) == 3
    assert server.hear("w9", 0) == "ended"


def test_a_distrusted_workflow_is_forgotten_with_the_doubts() -> None:
    server = Server(Limits(most_workflows=1))
    for name, is_done in (("ended", True), ("pushed out", False), ("last", True)):
        for seq in range(3):
            server.hear(name, seq, {"a": 1, "b": 5}, changes=True, caller="b")
        assert server.foresight.distrusted == 1
        assert server.tree.ledger._doubted == {name}
        if is_done:
            server.hear(name, 9, done=True)
    assert server.foresight.distrusted == 0
    assert not server.tree.ledger._doubted


def test_beyond_most_agents_the_workflow_silent_longest_is_forgotten() -> None:
    server = Server(Limits(most_agents=3))
    for name in "ab":
        server.hear(name, 0, {"1": 1, "2": 1})
        server.call(name, "1", name * 4)
    server.call("b", "2", "2222")
    assert server.foresight.agents == 3
    server.call("b", "3", "3333")
    assert (server.foresight.agents, server.foresight.workflows) == (3, 1)
    assert server.standing("aaaa") == ORDINARY
    assert server.standing("bbbb") == expected(1)


def test_beyond_most_tokens_the_workflow_silent_longest_is_forgotten() -> None:
    server = Server(Limits(most_tokens=100))
    for name in "abc":
        server.hear(name, 0, {name: 1})
        server.call(name, name, name * 40)
    assert server.foresight.workflows == 2
    assert server.standing("a" * 40) == ORDINARY
    assert server.standing("b" * 40) == expected(1)


@pytest.mark.parametrize("app", [None, "app"])
def test_one_workflow_alone_cannot_exceed_the_limits(app: str | None) -> None:
    server = Server(Limits(most_agents=10, most_tokens=1000))
    for number in range(100):
        server.hear("w", number, {"a": 0}, app=app)
        server.call("w", f"agent {number}", f"{number} " * 10)
        assert server.foresight.agents <= 10
    assert server.foresight.workflows <= 1
    server.hear("w", 100, {"b": 0}, app=app)
    server.call("w", "b", "BBBB")
    assert server.standing("BBBB") == expected(0)


def test_one_app_alone_cannot_exceed_the_limits() -> None:
    server = Server(Limits(most_agents=10, most_tokens=1000))
    for number in range(100):
        server.hear(f"w{number}", 0, {"a": 0}, app="app")
        server.call(f"w{number}", f"agent {number}", f"{number} " * 10)
        server.hear(f"w{number}", 1, done=True)
        assert server.foresight.agents <= 10
