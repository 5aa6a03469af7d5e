from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.prefix import common_prefix_tokens
from kvflow_bench.workloads import KINDS, Parameters, Stage, Workflow, Workload

SMALL = Parameters(
    workflows=2, agents=3, fixed_tokens=20, dynamic_tokens=5, output_tokens=7, rounds=2
)


def workflow(kind: str, sizes: Parameters = SMALL, number: int = 0) -> Workflow:
    return Workload("test", kind, sizes).workflows()[number]


def counted(of: Workflow) -> list[Stage]:
    return list(of.stages(counted=True))


def shared_tokens(one: list[int], other: list[int]) -> int:
    return common_prefix_tokens(array("q", one), array("q", other))


def agents(stages: list[Stage]) -> list[list[str]]:
    return [[call.agent for call in stage.calls] for stage in stages]


def test_a_cycle_calls_its_agents_in_turn_and_foresees_whom() -> None:
    cycle = workflow("cycle")
    names = ["agent00", "agent01", "agent02"]
    assert agents(list(cycle.stages(counted=False))) == [[name] for name in names]
    stages = counted(cycle)
    assert agents(stages) == [[name] for name in names * 2]
    assert [stage.steps for stage in stages[:3]] == [
        {"agent00": 0, "agent01": 1, "agent02": 2},
        {"agent01": 0, "agent02": 1, "agent00": 2},
        {"agent02": 0, "agent00": 1, "agent01": 2},
    ]


def test_peer_executes_side_by_side_and_joins() -> None:
    stages = counted(workflow("peer"))
    executors = ["execute00", "execute01", "execute02"]
    assert agents(stages) == [["plan"], executors, ["express"], ["review"]] * 2
    planned = {"plan": 0, "express": 2, "review": 3} | dict.fromkeys(executors, 1)
    assert stages[0].steps == planned
    executing = {"express": 1, "review": 2, "plan": 3} | dict.fromkeys(executors, 0)
    assert stages[1].steps == executing


def test_a_branch_is_unknown_until_it_is_taken() -> None:
    sizes = replace(SMALL, rounds=20)
    branching = workflow("branch", sizes)
    warm_up = list(branching.stages(counted=False))
    assert agents(warm_up) == [
        [f"stage{stage:02}/{branch}"] for branch in (0, 1) for stage in range(3)
    ]
    stages = counted(branching)
    assert len(stages) == 60
    taken = Counter(agent for (agent,) in agents(stages))
    assert set(taken) == {f"stage{stage:02}/{branch}" for stage in range(3) for branch in (0, 1)}
    for stage in stages:
        (call,) = stage.calls
        here = int(call.agent[5:7])
        following, last = (here + 1) % 3, (here + 2) % 3
        other = f"stage{here:02}/{1 - int(call.agent[-1])}"
        assert stage.steps == {
            call.agent: 0,
            **{f"stage{following:02}/{branch}": 1 for branch in (0, 1)},
            **{f"stage{last:02}/{branch}": 2 for branch in (0, 1)},
            other: 3,
        }


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_prefixes_are_exact(kind: str) -> None:
    sizes = replace(SMALL, shared_tokens=8)
    prompts: dict[str, list[list[int]]] = {}
    for number in range(2):
        for is_counted in (False, True):
            # Each half makes the whole, so their prompts fit together.
            for stage in workflow(kind, sizes, number).stages(counted=is_counted):
                for call in stage.calls:
                    prompts.setdefault(f"{number}/{call.agent}", []).append([*call.prompt])
    keeps_history = kind == "growing"
    for of_agent in prompts.values():
        for made, prompt in enumerate(of_agent):
            assert len(prompt) == 20 + 5 * (made + 1 if keeps_history else 1)
            assert all(10 <= token < 250 for token in prompt)
        for before, after in pairwise(of_agent):
            kept = len(before) if keeps_history else 20
            assert shared_tokens(before, after) == kept
    first = {owner: of_agent[0] for owner, of_agent in prompts.items()}
    for one in first:
        for other in first:
            if one < other:
                expected = 8 if one.rpartition("/")[0] == other.rpartition("/")[0] else 0
                assert shared_tokens(first[one], first[other]) == expected


def test_a_seed_decides_everything() -> None:
    once, again = (workflow("branch", replace(SMALL, rounds=9)) for _ in range(2))
    assert counted(once) == counted(again)
    other = workflow("branch", replace(SMALL, rounds=9, seed=1))
    assert agents(counted(other)) != agents(counted(once))
    assert counted(other)[0].calls[0].prompt != counted(once)[0].calls[0].prompt


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("cycle", 3 * 20 + 9 * 12),
        ("growing", 3 * 20 + 9 * 12),
        ("peer", 6 * 20 + 18 * 12),
        ("branch", 3 * (8 + 2 * 12) + 12 * 12),
        ("active", 3 * 20 + 9 * 12),
    ],
)
def test_the_footprint_counts_prefixes_once_and_every_call(kind: str, tokens: int) -> None:
    sizes = replace(SMALL, shared_tokens=8 if kind == "branch" else 0)
    assert Workload("test", kind, sizes).footprint_tokens() == 2 * tokens


@pytest.mark.parametrize("wrong", [{"agents": 0}, {"shared_tokens": 21}, {"seed": -1}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        replace(SMALL, **wrong)
