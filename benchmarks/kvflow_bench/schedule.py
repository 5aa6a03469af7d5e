"""Who calls when in a simulation: some agents again and again, the others now and then. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from kvflow_agents.forecast import Steps


def schedule(agents: Sequence[str], active: int, *, seed: str) -> Iterator[tuple[str, Steps]]:
    """Without end, each caller with what the simulation knows then: who is due after whom.

    Between calls an agent is busy with an action whose end is known: the first `active` with short
    ones. Steps count the agents that are due before.
    """
    chance = random.Random(seed)
    due = {
        agent: _rest(chance, index, active, len(agents)) * chance.random()
        for index, agent in enumerate(agents)
    }
    number = {agent: index for index, agent in enumerate(agents)}
    while True:
        order = sorted(due, key=lambda agent: (due[agent], agent))
        caller = order[0]
        yield caller, {agent: steps for steps, agent in enumerate(order)}
        due[caller] += _rest(chance, number[caller], active, len(agents))


def _rest(chance: random.Random, index: int, active: int, agents: int) -> int:
    """How long an action takes; with a fifth active, the others make an eighth of the calls."""
    if index < active:
        return chance.randint(1, 3 * active)
    return chance.randint(4 * agents, 12 * agents)
