"""Steps of scopes: what is decided once for all runs, and what is forgotten."""

from __future__ import annotations

from kvflow_agents import App, Join, StepGraph, Workflow
from kvflow_agents.scope_steps import Front, ScopeStep, front_of


def app_of(*pairs: str) -> App:
    joins = [Join(frozenset(pair[:-1]), pair[-1]) for pair in pairs]
    return App(StepGraph([*joins, Join(frozenset({"__start__"}), "a")], passive=["__start__"]))


def test_runs_that_go_the_same_way_share_their_steps() -> None:
    app = app_of("ab", "ba")
    first, second = (Workflow(name, app, first_seq=0) for name in ("one", "two"))
    for run in (first, second):
        for agent in "abab":
            run.plan("", [agent])
            run.finish("", agent)
    assert first._scopes["", ""] is second._scopes["", ""]
    assert app.steps.finished.cache_info().currsize <= 4
    first.plan("", ["a"])
    second.plan("", ["a"])
    assert first.hint("a").forecast.steps is second.hint("a").forecast.steps


def test_a_step_counts_who_runs_twice_and_finds_who_does_not_run() -> None:
    steps = app_of("ab").steps
    twice = steps.planned("", None, ("b", "a", "b"))
    assert (twice.planned, twice.times) == (("a", "b"), (1, 2))
    finish = steps.finished(twice, "b")
    assert finish is not None and not finish.is_last
    assert (finish.after.times, finish.after.finished) == ((1, 1), ("b",))
    assert steps.finished(twice, "c") is None
    assert steps.joined("", twice, "a").times == (2, 2)


def test_a_join_keeps_what_it_has_seen_until_it_is_used_up() -> None:
    steps = app_of("ab", "ac", "bcd").steps
    one = steps.planned("", None, ("a",))
    one = steps.planned("", one, ("b",))
    one = steps.planned("", one, ("c",))
    assert [sorted(seen) for _, seen in one.arrived] == [["b"]]
    assert not steps.planned("", one, ("d",)).arrived


def test_a_graph_that_has_grown_begins_anew() -> None:
    app = app_of("ab")
    before = app.steps
    assert before.planned("", before.planned("", None, ("a",)), ("b",)) and app.steps is before
    before.planned("", before.planned("", None, ("a",)), ("c",))
    assert app.steps is not before
    assert Join(frozenset("a"), "c") in app.graph.joins


def test_a_scope_at_work_stands_for_its_start() -> None:
    root = ScopeStep(planned=("b/__start__", "c"), times=(1, 1), finished=("a",))
    inner = ScopeStep(planned=("b/x",), times=(1,))
    assert front_of((("", root), ("b", inner))) == Front(("b/x", "c"), ("a",))
