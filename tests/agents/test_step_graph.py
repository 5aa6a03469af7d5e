"""The step graph against two references that were written from the definition, not from it."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvflow_agents import Join, Outlook, StepGraph

NAMES = tuple("abcdefg")


def join(sources: str, target: str) -> Join:
    return Join(frozenset(sources), target)


def edges(*pairs: str) -> list[Join]:
    """`ab` is an edge from a to b, `abc` an AND join of a and b into c."""
    return [join(pair[:-1], pair[-1]) for pair in pairs]


@dataclass(frozen=True)
class Case:
    """A graph and a moment of a run."""

    joins: tuple[Join, ...]
    passive: frozenset[str] = frozenset()
    open_agents: frozenset[str] = frozenset()
    front: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()
    arrived: Mapping[Join, frozenset[str]] = field(default_factory=dict)

    def graph(self) -> StepGraph:
        return StepGraph(
            self.joins, agents=NAMES, passive=self.passive, open_agents=self.open_agents
        )

    def outlook(self, most_agents: int | None = None) -> Outlook:
        return self.graph().outlook(
            sorted(self.front),
            finished=sorted(self.finished),
            arrived=self.arrived,
            most_agents=most_agents,
        )


@st.composite
def cases(draw: st.DrawFn, *, with_open: bool = True, names: str = "abcdefg") -> Case:
    some = st.frozensets(st.sampled_from(names), max_size=3)
    sources = st.frozensets(st.sampled_from(names), min_size=1, max_size=3)
    joins = tuple(
        draw(st.lists(st.builds(Join, sources, st.sampled_from(names)), max_size=9, unique=True))
    )
    waiting = [join for join in joins if len(join.sources) > 1]
    arrived = {
        join: draw(st.frozensets(st.sampled_from(sorted(join.sources)), min_size=1))
        for join in waiting
        if draw(st.booleans())
    }
    # An AND join that has seen all of its sources has fired: it waits for nothing.
    arrived = {join: seen for join, seen in arrived.items() if seen != join.sources}
    return Case(
        joins=joins,
        passive=draw(some),
        open_agents=draw(some) if with_open else frozenset(),
        front=draw(some),
        finished=draw(some),
        arrived=arrived,
    )


def value_iteration(case: Case) -> dict[str, float]:
    """s(target) = min over joins of the max over their sources, + 1; from infinity to the limit.

    `ran[n]` is the level at which n has run, `next_run[n]` that at which it will. They differ for
    the finished: what follows a finished agent counts from its run of this step.
    """
    next_run: dict[str, float] = dict.fromkeys(NAMES, math.inf)
    for name in case.front:
        next_run[name] = -1 if name in case.passive else 0
    while True:
        ran = {
            name: min(steps, 0) if name in case.finished else steps
            for name, steps in next_run.items()
        }
        updated = dict(next_run)
        for edge in case.joins:
            # What arrived earlier makes nobody wait, and its next run adds nothing.
            needed = edge.sources - case.arrived.get(edge, frozenset())
            cost = 0 if edge.target in case.passive else 1
            latest = max(ran[source] for source in needed)
            updated[edge.target] = min(updated[edge.target], latest + cost)
        for opener in case.open_agents:
            if not any(opener in edge.sources for edge in case.joins):
                for name in set(NAMES) - case.passive:
                    updated[name] = min(updated[name], ran[opener] + 1)
        if updated == next_run:
            return {
                name: steps
                for name, steps in next_run.items()
                if steps < math.inf and name not in case.passive
            }
        next_run = updated


def execute(case: Case, most_steps: int = len(NAMES) + 1) -> dict[str, int]:
    """Run the graph: everybody fires all joins; the earliest step at which each agent runs."""
    seen = {edge: set(case.arrived.get(edge, ())) for edge in case.joins}
    first_run: dict[str, int] = {}

    def fire(running: Iterable[str]) -> set[str]:
        """Let nodes run, passive ones at once; return who runs in the next step."""
        queue, upcoming, passed = list(running), set[str](), set[str]()
        while queue:
            name = queue.pop()
            for edge in case.joins:
                if name not in edge.sources:
                    continue
                seen[edge].add(name)
                if seen[edge] != edge.sources:
                    continue
                seen[edge] = set()
                if edge.target not in case.passive:
                    upcoming.add(edge.target)
                elif edge.target not in passed:
                    passed.add(edge.target)
                    queue.append(edge.target)
        return upcoming

    running = {name for name in case.front if name not in case.passive}
    running |= fire(name for name in case.front if name in case.passive)
    also_ran = case.finished
    for step in range(most_steps):
        for name in running:
            first_run.setdefault(name, step)
        running = fire(running | also_ran)
        also_ran = frozenset()
    return first_run


@given(cases())
@settings(max_examples=500, deadline=None)
@example(Case(joins=tuple(edges("aa")), front=frozenset("a")))
@example(Case(joins=tuple(edges("ab", "bc", "abd")), front=frozenset("a")))
@example(Case(joins=tuple(edges("ab", "ba")), finished=frozenset("a")))
def test_steps_are_the_fixed_point_of_min_over_joins_of_max_over_sources(case: Case) -> None:
    assert case.outlook().steps == value_iteration(case)


@given(cases(with_open=False, names="abcde"))
@settings(max_examples=500, deadline=None)
@example(Case(joins=tuple(edges("ab", "bc", "cda", "ad")), front=frozenset("a")))
def test_steps_are_the_earliest_runs_of_an_execution_that_takes_every_edge(case: Case) -> None:
    assert case.outlook().steps == execute(case)


@given(cases(), st.integers(min_value=0, max_value=8))
@settings(max_examples=200, deadline=None)
def test_a_truncated_outlook_keeps_the_nearest_agents(case: Case, most_agents: int) -> None:
    whole, cut = case.outlook().steps, case.outlook(most_agents).steps
    assert cut.items() <= whole.items()
    assert len(cut) >= min(most_agents, len(whole))
    left_out = [steps for name, steps in whole.items() if name not in cut]
    assert all(steps >= max(cut.values(), default=0) for steps in left_out)


@given(cases())
@settings(max_examples=100, deadline=None)
def test_an_outlook_is_sorted_by_steps(case: Case) -> None:
    steps = list(case.outlook().steps.values())
    assert steps == sorted(steps)


@given(cases())
@settings(max_examples=200, deadline=None)
def test_an_outlook_is_open_exactly_when_an_open_agent_runs(case: Case) -> None:
    reached = value_iteration(case)
    passed = execute_passive(case)
    ahead = reached.keys() | case.finished | passed
    assert case.outlook().is_closed == (not ahead & case.open_agents)


def execute_passive(case: Case) -> set[str]:
    """The passive nodes that are reached: those whose replacement by an agent gets steps."""
    reached = set()
    for name in case.passive:
        twin = Case(
            joins=case.joins,
            passive=case.passive - {name},
            open_agents=case.open_agents,
            front=case.front,
            finished=case.finished,
            arrived=case.arrived,
        )
        if name in value_iteration(twin):
            reached.add(name)
    return reached


def test_a_truncated_outlook_is_not_closed_because_others_may_run() -> None:
    graph = StepGraph(edges("ab", "bc", "cd"), open_agents="d")
    assert not graph.outlook(["a"], most_agents=2).is_closed
    assert not StepGraph(edges("ab", "bc", "cd")).outlook(["a"], most_agents=2).is_closed


def test_an_outlook_that_ends_by_itself_at_the_limit_is_closed() -> None:
    graph = StepGraph(edges("ab"))
    assert graph.outlook(["a"], most_agents=3) == Outlook({"a": 0, "b": 1}, is_closed=True)


def test_a_linear_graph_counts_up() -> None:
    graph = StepGraph(edges("ab", "bc"))
    assert graph.outlook(["a"]).steps == {"a": 0, "b": 1, "c": 2}


def test_an_and_join_waits_for_its_latest_source() -> None:
    graph = StepGraph(edges("ab", "bc", "acd"))
    assert graph.outlook(["a"]).steps["d"] == 3


def test_an_or_join_takes_its_earliest_source() -> None:
    graph = StepGraph(edges("ab", "bc", "ad", "cd"))
    assert graph.outlook(["a"]).steps["d"] == 1


def test_an_and_join_with_a_source_that_never_runs_never_fires() -> None:
    assert "d" not in StepGraph(edges("ab", "bxd")).outlook(["a"]).steps


def test_a_source_that_arrived_is_not_waited_for() -> None:
    graph = StepGraph(edges("ab", "bxd"))
    outlook = graph.outlook(["a"], arrived={join("bx", "d"): {"x"}})
    assert outlook.steps["d"] == 2


def test_a_planned_agent_stays_at_zero_on_a_self_edge_and_on_a_cycle() -> None:
    assert StepGraph(edges("aa", "ab", "ba")).outlook(["a"]).steps == {"a": 0, "b": 1}


def test_a_finished_agent_gets_its_own_next_run() -> None:
    assert StepGraph(edges("aa")).outlook([], finished=["a"]).steps == {"a": 1}
    assert StepGraph(edges("ab", "ba")).outlook([], finished=["a"]).steps == {"b": 1, "a": 2}


def test_a_supervisors_star_is_two_steps_from_worker_to_worker() -> None:
    star = StepGraph(itertools.chain.from_iterable((edges(f"s{w}", f"{w}s")) for w in "abc"))
    assert star.outlook(["a"]).steps == {"a": 0, "s": 1, "b": 2, "c": 2}


def test_agents_out_of_reach_have_no_steps() -> None:
    outlook = StepGraph(edges("ab", "xy"), agents="z").outlook(["b"])
    assert outlook == Outlook({"b": 0}, is_closed=True)


def test_passive_nodes_take_no_step_and_no_place() -> None:
    graph = StepGraph(edges("Sa", "aT", "Tb"), passive="ST")
    assert graph.agents == ("a", "b")
    assert graph.outlook(["S"]).steps == {"a": 0, "b": 1}


def test_a_cycle_of_passive_nodes_ends() -> None:
    graph = StepGraph(edges("aS", "ST", "TS", "Tb"), passive="ST")
    assert graph.outlook(["a"]).steps == {"a": 0, "b": 1}


def test_an_open_agent_without_successors_may_be_followed_by_any() -> None:
    graph = StepGraph(edges("ab"), agents="xy", open_agents="b")
    outlook = graph.outlook(["a"])
    assert outlook == Outlook({"a": 0, "b": 1, "x": 2, "y": 2}, is_closed=False)


def test_an_open_agent_with_a_known_successor_is_followed_by_that_one() -> None:
    graph = StepGraph(edges("ab"), agents="x", open_agents="a")
    assert graph.outlook(["a"]) == Outlook({"a": 0, "b": 1}, is_closed=False)


def test_a_chain_of_100000_agents_is_walked_to_its_end() -> None:
    size = 100_000
    chain = StepGraph(Join(frozenset({f"n{i}"}), f"n{i + 1}") for i in range(size - 1))
    steps = chain.outlook(["n0"]).steps
    assert len(steps) == size
    assert steps[f"n{size - 1}"] == size - 1


def test_100000_sources_of_one_join_are_all_waited_for() -> None:
    workers = [f"n{i}" for i in range(100_000)]
    joins = [Join(frozenset({"start"}), worker) for worker in workers]
    graph = StepGraph([*joins, Join(frozenset(workers), "merge")])
    assert graph.outlook(["start"]).steps["merge"] == 2
    assert graph.outlook(workers[1:]).steps.keys().isdisjoint({"merge"})


def test_edges_are_added_to_a_copy() -> None:
    graph = StepGraph(edges("ab"), agents="z", passive="S", open_agents="o")
    more = graph.with_edges([("b", "c"), ("a", "b")])
    assert graph.joins == tuple(edges("ab"))
    assert more.joins == tuple(edges("ab", "bc"))
    assert set(more.agents) == set("abcoz")
    assert (more.passive, more.open_agents) == (frozenset("S"), frozenset("o"))
    assert more.outlook(["a"]).steps["c"] == 2


def test_two_graphs_join_where_they_name_the_same_nodes() -> None:
    outer = StepGraph(edges("ab"), agents="z", open_agents="o")
    both = outer.including(StepGraph(edges("bS", "Sc", "ab"), passive="S", open_agents="p"))
    assert both.joins == tuple(edges("ab", "bS", "Sc"))
    assert (both.passive, both.open_agents) == (frozenset("S"), frozenset("op"))
    assert set(both.agents) == set("abczop")
    assert both.outlook(["a"]).steps == {"a": 0, "b": 1, "c": 2}


@given(cases(), st.integers(0, 9))
def test_a_graph_that_grows_is_one_that_was_whole_from_the_start(case: Case, first: int) -> None:
    whole = case.graph()
    begun = StepGraph(case.joins[:first], passive=case.passive)
    # Some of it is said twice.
    grown = begun.including(
        StepGraph(case.joins[first // 2 :], agents=NAMES, open_agents=case.open_agents)
    )
    assert grown.fingerprint() == whole.fingerprint()
    for name in NAMES:
        assert set(grown.joins_from(name)) == set(whole.joins_from(name))
        assert set(grown.and_joins_from(name)) == set(whole.and_joins_from(name))
        assert set(grown.joins_into(name)) == set(whole.joins_into(name))
        assert len(grown.joins_into(name)) == len(whole.joins_into(name))


def test_joins_are_found_from_both_ends() -> None:
    graph = StepGraph(edges("ab", "acb", "ab"))
    assert list(graph.joins_from("a")) == edges("ab", "acb")
    assert list(graph.joins_into("b")) == edges("ab", "acb")
    assert not graph.joins_from("b")
    assert not graph.joins_into("a")


@given(cases(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_a_fingerprint_does_not_depend_on_order(case: Case, random: Random) -> None:
    shuffled = list(case.joins)
    random.shuffle(shuffled)
    other = StepGraph(
        shuffled, agents=NAMES[::-1], passive=case.passive, open_agents=case.open_agents
    )
    assert other.fingerprint() == case.graph().fingerprint()


def test_a_fingerprint_tells_structures_apart() -> None:
    graphs = [
        StepGraph(),
        StepGraph(edges("ab")),
        StepGraph(edges("ba")),
        StepGraph(edges("ab", "bc")),
        StepGraph(edges("abc")),
        StepGraph(edges("ac", "bc")),
        StepGraph(edges("ab"), agents="c"),
        StepGraph(edges("ab"), open_agents="a"),
        StepGraph(edges("ab"), passive="a"),
    ]
    fingerprints = {graph.fingerprint() for graph in graphs}
    assert len(fingerprints) == len(graphs)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in fingerprints)


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_a_fingerprint_is_the_same_in_every_process(seed: str) -> None:
    code = (
        "from kvflow_agents import Join, StepGraph\n"
        "j = [Join(frozenset('abcdef'), 'g'), Join(frozenset('gh'), 'a')]\n"
        "print(StepGraph(j, passive='b', open_agents='xyz').fingerprint())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    here = StepGraph(edges("abcdefg", "gha"), passive="b", open_agents="xyz").fingerprint()
    assert ran.stdout.strip() == here
