"""However many agents a message is about, few are looked at before the next one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvflow_agents.agent_claims import AgentClaims
from kvflow_agents.claims import AT_ONCE
from kvflow_agents.eviction import Standing
from tests.agents.foresight_server import LIFETIME, ORDINARY, SPENT, Server, expected, tokens
from tests.agents.radix_tree import NOWHERE

# The caller, the nearest, and as many of those that wait.
MOST = 1 + 2 * AT_ONCE
AGENTS = 5 * AT_ONCE
STEPS = {f"a{number}": number for number in range(AGENTS)}


class Looks:
    """How many agents' claims were placed, followed or given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("follow", "give_up"):
            self._count(monkeypatch, name, getattr(AgentClaims, name))

    def _count(self, monkeypatch: pytest.MonkeyPatch, name: str, look: Callable[..., Any]) -> None:
        def counted(*args: Any) -> Any:
            self.count += 1
            return look(*args)

        monkeypatch.setattr(AgentClaims, name, counted)

    def of(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> int:
        before = self.count
        call(*args, **kwargs)
        return self.count - before


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def text_of(agent: str) -> str:
    return f"{agent}: you are"


@pytest.fixture(scope="module")
def learned() -> Callable[[], Server]:
    """Makes servers to whom two runs of an application have shown all of its agents."""

    def make() -> Server:
        server = Server()
        foresight, check = server.foresight, server.foresight.check
        foresight.check = lambda: None  # type: ignore[method-assign]  # of each call is too slow
        for run in ("one", "two"):
            server.hear(run, 0, STEPS, app="app")
            for agent in STEPS:
                server.call(run, agent, text_of(agent) + run)
            server.hear(run, 1, done=True, app="app")
        foresight.check = check  # type: ignore[method-assign]
        caught_up(server)
        return server

    return make


def caught_up(server: Server) -> int:
    """Let passes come until nothing is left; how many those were."""
    passes = 0
    while server.foresight.is_behind:
        server.foresight.catch_up()
        passes += 1
    server.foresight.check()
    return passes


def standings(server: Server) -> list[Any]:
    return [server.standing(text_of(agent)) for agent in STEPS]


def test_of_a_large_forecast_the_nearest_are_looked_at_first_and_all_in_time(
    learned: Callable[[], Server], looks: Looks
) -> None:
    server = learned()
    assert looks.of(server.hear, "w", 0, STEPS, app="app") <= MOST
    found = standings(server)
    assert found[:AT_ONCE] == [expected(number) for number in range(AT_ONCE)]
    assert found[-1][0] is not Standing.EXPECTED
    assert caught_up(server) <= AGENTS // AT_ONCE
    assert standings(server) == [expected(number) for number in range(AGENTS)]
    # The same again, the other way round.
    turned = {agent: AGENTS - 1 - number for agent, number in STEPS.items()}
    assert looks.of(server.hear, "w", 1, turned, caller="a0") <= MOST
    assert standings(server)[0] == expected(AGENTS - 1)  # who calls
    assert standings(server)[-1] == expected(0)
    caught_up(server)
    assert standings(server) == [expected(AGENTS - 1 - number) for number in range(AGENTS)]


def test_what_is_told_meanwhile_counts(learned: Callable[[], Server]) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    server.hear("w", 1, {"a9": 77, f"a{AGENTS - 1}": 3}, changes=True)
    assert (standings(server)[9], standings(server)[-1]) == (expected(77), expected(3))
    server.call("w", "a300", text_of("a300") + "w")
    caught_up(server)
    assert (standings(server)[9], standings(server)[-1]) == (expected(77), expected(3))


@pytest.mark.parametrize("is_heeded", [False, True])
def test_a_tenant_that_is_heeded_or_not_is_looked_at_in_slices(
    learned: Callable[[], Server], looks: Looks, is_heeded: bool
) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    server.foresight.heed(not is_heeded)
    caught_up(server)
    assert looks.of(server.foresight.heed, is_heeded) <= AT_ONCE
    assert caught_up(server) > 1
    wanted = [expected(number) if is_heeded else ORDINARY for number in range(AGENTS)]
    assert standings(server) == wanted


def test_a_workflow_that_ends_is_spent_in_slices(
    learned: Callable[[], Server], looks: Looks
) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    for agent in STEPS:
        server.tree.insert(server.tree.make_key(*_prompt(f"w {agent}")), "w")
    caught_up(server)
    assert looks.of(server.hear, "w", 1, done=True) <= AT_ONCE
    assert server.foresight.workflows == 0
    # The next run of the same name is another one.
    server.hear("w", 2, {"a0": 4}, app="app")
    assert caught_up(server) > 1
    assert standings(server)[:2] == [expected(4), ORDINARY]
    assert server.standing(f"w a{AGENTS - 1}") == SPENT


def _prompt(text: str) -> Any:
    return tokens(text), len(text), NOWHERE


def test_forecasts_that_expire_do_so_in_slices(learned: Callable[[], Server], looks: Looks) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    caught_up(server)
    assert looks.of(server.foresight.turn_over, LIFETIME + 1) <= AT_ONCE
    assert caught_up(server) > 1
    assert standings(server) == [ORDINARY] * AGENTS


def test_a_tenant_is_forgotten_in_slices(learned: Callable[[], Server], looks: Looks) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    caught_up(server)
    assert looks.of(server.foresight.forget_all) <= AT_ONCE
    assert (server.foresight.workflows, server.foresight.agents) == (0, 0)
    assert caught_up(server) > 1
    assert standings(server) == [ORDINARY] * AGENTS


def test_forecasts_that_are_no_longer_believed_are_left_in_slices(
    learned: Callable[[], Server], looks: Looks
) -> None:
    server = learned()
    server.hear("w", 0, STEPS, app="app")
    caught_up(server)
    for seq in range(1, 5):
        wrong = STEPS | {"a1": None, "a0": 2}
        assert looks.of(server.hear, "w", seq, wrong, caller="a1") <= MOST
    assert not server.foresight.is_trusted("w")
    caught_up(server)
    assert standings(server) == [ORDINARY] * AGENTS
