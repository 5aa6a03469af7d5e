"""What is remembered of objects that cannot be hashed, or are equal to others."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from kvflow_agents.identity_map import IdentityMap


@dataclass
class Agent:
    """Equal to its namesakes, and not hashable."""

    name: str


def test_equal_objects_are_told_apart() -> None:
    known: IdentityMap[int] = IdentityMap()
    one, other = Agent("x"), Agent("x")
    known[one] = 1
    known[other] = 2
    assert (known.get(one), known.get(other), known.get(Agent("x"))) == (1, 2, None)
    assert (known.pop(one), known.pop(one), known.get(other)) == (1, None, 2)


def test_what_is_gone_is_forgotten() -> None:
    known: IdentityMap[int] = IdentityMap()
    agents = [Agent(str(number)) for number in range(100)]
    for number, agent in enumerate(agents):
        known[agent] = number
        known[agent] = -number
    assert len(known) == 100
    del agent
    agents.clear()
    gc.collect()
    assert len(known) == 0
