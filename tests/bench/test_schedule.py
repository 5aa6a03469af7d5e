from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

from kvflow_bench.schedule import schedule

AGENTS = [f"agent{number:02}" for number in range(20)]
ACTIVE = 4


def test_a_fifth_of_the_agents_makes_most_of_the_calls() -> None:
    callers = Counter(caller for caller, _ in islice(schedule(AGENTS, ACTIVE, seed="0"), 2000))
    share = sum(callers[agent] for agent in AGENTS[:ACTIVE]) / callers.total()
    assert 0.8 < share < 0.95
    assert set(callers) == set(AGENTS)


def test_who_calls_is_due_now_and_who_is_due_first_calls_next() -> None:
    calls = list(islice(schedule(AGENTS, ACTIVE, seed="0"), 200))
    for (caller, steps), (following, _) in pairwise(calls):
        assert steps[caller] == 0
        assert sorted(count for count in steps.values() if count is not None) == list(range(20))
        # Unless the caller is done before whoever is next.
        assert steps[following] == 1 or following == caller


def test_one_agent_calls_over_and_over() -> None:
    calls = list(islice(schedule(["alone"], 1, seed="0"), 3))
    assert calls == [("alone", {"alone": 0})] * 3
