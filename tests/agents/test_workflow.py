"""A run, followed step by step: the exact forecast after each."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from kvflow_agents import App, Forecast, Hint, Join, StepGraph, Workflow
from kvflow_agents.hints import MAX_AGENTS, decode_body, encode_body

START, END = "__start__", "__end__"


def graph(
    *pairs: tuple[str, str], agents: Iterable[str] = (), open_agents: Iterable[str] = ()
) -> StepGraph:
    """A graph of edges; `b+c` as a source is an AND join, starts and ends are passive."""
    joins = [Join(frozenset(source.split("+")), target) for source, target in pairs]
    nodes = {name for join in joins for name in (*join.sources, join.target)}
    passive = {name for name in nodes if name.rpartition("/")[2] in (START, END)}
    return StepGraph(joins, agents=agents, passive=passive, open_agents=open_agents)


def workflow(step_graph: StepGraph) -> Workflow:
    return Workflow("run", App(step_graph), first_seq=100)


def steps(run: Workflow, agent: str) -> dict[str, int | None]:
    return dict(run.hint(agent).forecast.steps)


LINEAR = ((START, "a"), ("a", "b"), ("b", "c"), ("c", END))
DIAMOND = ((START, "a"), ("a", "b"), ("a", "x"), ("x", "y"), ("b+y", "c"), ("c", "a"))
NESTED = (
    (START, "plan"),
    ("plan", "team/__start__"),
    ("team/__start__", "team/r"),
    ("team/r", "team/w"),
    ("team/w", "team/__end__"),
    ("team/__end__", "judge"),
    ("judge", "plan"),
)


def test_a_linear_run_counts_down_and_then_expects_its_callers_never_again() -> None:
    run = workflow(graph(*LINEAR))
    run.plan("", ["a"])
    assert steps(run, "a") == {"a": 0, "b": 1, "c": 2}
    run.plan("", ["b"])
    assert steps(run, "b") == {"a": None, "b": 0, "c": 1}
    run.plan("", ["c"])
    assert steps(run, "c") == {"a": None, "b": None, "c": 0}


def test_a_hint_says_who_calls_in_which_run_of_which_app() -> None:
    run = workflow(graph(*LINEAR))
    run.plan("", ["a"])
    forecast = Forecast(101, {"a": 0, "b": 1, "c": 2})
    assert run.hint("a") == Hint("run", forecast, agent="a", app=run.app.name)


def test_seq_grows_from_its_first_with_every_hint() -> None:
    run = workflow(graph(*LINEAR))
    run.plan("", ["a"])
    assert [run.hint("a").forecast.seq for _ in range(3)] == [101, 102, 103]
    assert run.end(resumable=False).forecast.seq == 104


def test_a_loop_brings_its_agents_back() -> None:
    run = workflow(graph((START, "a"), ("a", "b"), ("b", "a")))
    for _ in range(3):
        run.plan("", ["a"])
        assert steps(run, "a") == {"a": 0, "b": 1}
        run.plan("", ["b"])
        assert steps(run, "b") == {"a": 1, "b": 0}


def test_an_and_join_remembers_arrivals_from_step_to_step_and_uses_them_up() -> None:
    run = workflow(graph(*DIAMOND))
    run.plan("", ["a"])
    assert steps(run, "a") == {"a": 0, "b": 1, "x": 1, "y": 2, "c": 3}
    run.plan("", ["b", "x"])
    assert steps(run, "b") == {"b": 0, "x": 0, "y": 1, "c": 2, "a": 3}
    run.plan("", ["y"])  # b arrived a step ago
    assert steps(run, "y") == {"y": 0, "c": 1, "a": 2, "b": 3, "x": 3}
    run.plan("", ["c"])  # the join is used up: c waits for both again
    assert steps(run, "c") == {"c": 0, "a": 1, "b": 2, "x": 2, "y": 3}
    run.plan("", ["a"])
    assert steps(run, "a") == {"a": 0, "b": 1, "x": 1, "y": 2, "c": 3}


def test_an_or_join_takes_whoever_comes_first() -> None:
    run = workflow(graph((START, "a"), ("a", "b"), ("b", "c"), ("a", "d"), ("c", "d")))
    run.plan("", ["a"])
    assert steps(run, "a")["d"] == 1


def test_an_agent_that_finished_leads_on_while_others_of_its_step_are_at_work() -> None:
    run = workflow(graph((START, "a"), (START, "b"), ("a", "c"), ("a+b", "d")))
    run.plan("", ["a", "b"])
    assert steps(run, "a") == {"a": 0, "b": 0, "c": 1, "d": 1}
    run.finish("", "a")
    assert steps(run, "b") == {"a": None, "b": 0, "c": 1, "d": 1}
    run.plan("", ["c", "d"])
    assert steps(run, "c") == {"a": None, "b": None, "c": 0, "d": 0}


def test_an_agent_planned_twice_in_a_step_is_at_work_until_both_have_finished() -> None:
    run = workflow(graph((START, "a"), ("a", "b"), ("b", "a")))
    run.plan("", ["a", "a"])
    run.finish("", "a")
    assert steps(run, "a") == {"a": 0, "b": 1}
    run.finish("", "a")
    assert steps(run, "b")["a"] == 2


def test_whoever_did_not_plan_to_run_cannot_finish() -> None:
    run = workflow(graph(*LINEAR))
    run.finish("", "a")
    run.plan("", ["a"])
    run.finish("", "b")
    run.finish("elsewhere", "a")
    assert steps(run, "a") == {"a": 0, "b": 1, "c": 2}


def test_an_agent_is_pushed_into_the_current_step() -> None:
    run = workflow(graph((START, "a"), ("a", "w"), ("w", "c")))
    run.plan("", ["a"])
    run.push("", "w")
    assert steps(run, "a") == {"a": 0, "w": 0, "c": 1}
    run.finish("", "w")
    assert steps(run, "a") == {"a": 0, "w": 1, "c": 1}


def test_a_nested_scope_is_seen_from_outside_before_it_begins() -> None:
    run = workflow(graph(*NESTED))
    run.plan("", ["plan"])
    assert steps(run, "plan") == {"plan": 0, "team/r": 1, "team/w": 2, "judge": 3}
    run.plan("", ["team"])
    assert steps(run, "team/r") == {"team/r": 0, "team/w": 1, "judge": 2, "plan": 3}


def test_a_nested_scope_counts_on_to_what_follows_it() -> None:
    run = workflow(graph(*NESTED))
    run.plan("", ["plan"])
    run.plan("", ["team"])
    run.plan("team", ["team/r"])
    assert steps(run, "team/r") == {"team/r": 0, "team/w": 1, "judge": 2, "plan": 3}
    run.plan("team", ["team/w"])
    assert steps(run, "team/w") == {"team/w": 0, "judge": 1, "plan": 2, "team/r": 3}
    run.finish("", "team")
    assert steps(run, "judge")["team/w"] == 4
    run.plan("", ["judge"])
    assert steps(run, "judge") == {"judge": 0, "plan": 1, "team/r": 2, "team/w": 3}


def test_a_scope_three_levels_deep_ends_with_its_holders() -> None:
    run = workflow(
        graph(
            (START, "t/__start__"),
            ("t/__start__", "t/u/__start__"),
            ("t/u/__start__", "t/u/a"),
            ("t/u/a", "t/u/__end__"),
            ("t/u/__end__", "t/__end__"),
            ("t/__end__", "z"),
        )
    )
    run.plan("", ["t"])
    run.plan("t", ["t/u"])
    run.plan("t/u", ["t/u/a"])
    assert steps(run, "t/u/a") == {"t/u/a": 0, "z": 1}
    run.finish("", "t")  # without a word from the scopes inside
    assert steps(run, "z") == {"z": 0, "t/u/a": None}
    run.plan("", ["z"])
    assert steps(run, "z") == {"z": 0, "t/u/a": None}


def test_parallel_scopes_are_followed_side_by_side() -> None:
    run = workflow(
        graph(
            (START, "p/__start__"),
            (START, "q/__start__"),
            ("p/__start__", "p/a"),
            ("p/a", "p/b"),
            ("p/b", "p/__end__"),
            ("q/__start__", "q/a"),
            ("q/a", "q/__end__"),
            ("p/__end__+q/__end__", "merge"),
        )
    )
    run.plan("", ["p", "q"])
    run.plan("p", ["p/a"])
    run.plan("q", ["q/a"])
    assert steps(run, "p/a") == {"p/a": 0, "q/a": 0, "p/b": 1, "merge": 2}
    run.finish("", "q")
    assert steps(run, "p/a") == {"p/a": 0, "p/b": 1, "merge": 2}
    run.plan("p", ["p/b"])
    assert steps(run, "p/b") == {"p/a": None, "p/b": 0, "merge": 1}


def test_a_scope_that_runs_twice_at_once_goes_on_with_its_slower_run() -> None:
    run = workflow(graph(*NESTED))
    run.plan("", ["team", "team"])
    run.plan("team", ["team/r"], run="1")
    run.plan("team", ["team/r"], run="2")
    run.plan("team", ["team/w"], run="1")
    assert steps(run, "team/w") == {"team/r": 0, "team/w": 0, "judge": 1, "plan": 2}
    run.leave("team", run="1")
    run.finish("", "team")
    assert steps(run, "team/r") == {"team/r": 0, "team/w": 1, "judge": 1, "plan": 2}


def test_a_second_run_of_a_scope_leaves_what_the_first_holds_at_work() -> None:
    run = workflow(
        graph(
            (START, "t/__start__"),
            ("t/__start__", "t/u/__start__"),
            ("t/u/__start__", "t/u/a"),
            ("t/u/a", "t/u/b"),
            ("t/u/b", "t/u/c"),
        )
    )
    run.plan("", ["t", "t"])
    run.plan("t", ["t/u"], run="1")
    run.plan("t/u", ["t/u/b"], run="1")
    run.plan("t", ["t/u"], run="2")
    run.plan("t/u", ["t/u/a"], run="2")
    assert steps(run, "t/u/b") == {"t/u/a": 0, "t/u/b": 0, "t/u/c": 1}


def test_edges_that_no_graph_names_are_known_to_the_second_run() -> None:
    app = App(graph((START, "a"), agents="abc"))
    first = Workflow("first", app, first_seq=0)
    for agent in "abc":
        first.plan("", [agent])
        assert steps(first, agent)[agent] == 0
    second = Workflow("second", app, first_seq=0)
    second.plan("", ["a"])
    assert steps(second, "a") == {"a": 0, "b": 1, "c": 2}


def test_an_open_agent_may_be_followed_by_any_until_a_successor_is_known() -> None:
    app = App(graph((START, "a"), agents="abc", open_agents="a"))
    run = Workflow("run", app, first_seq=0)
    run.plan("", ["a"])
    assert steps(run, "a") == {"a": 0, "b": 1, "c": 1}
    run.plan("", ["b"])
    assert steps(run, "b") == {"a": None, "b": 0}
    again = Workflow("again", app, first_seq=0)
    again.plan("", ["a"])
    assert steps(again, "a") == {"a": 0, "b": 1}


def test_nobody_is_written_off_while_an_open_agent_lies_ahead() -> None:
    run = workflow(graph((START, "a"), ("a", "r"), ("r", "x"), open_agents="r"))
    run.plan("", ["a"])
    steps(run, "a")
    run.plan("", ["r"])
    assert steps(run, "r") == {"r": 0, "x": 1}  # a is unknown, not null


def test_a_run_that_resumes_in_the_middle_teaches_no_start() -> None:
    app = App(graph(*LINEAR))
    run = Workflow("run", app, first_seq=0)
    run.plan("", ["b"])
    assert steps(run, "b") == {"b": 0, "c": 1}
    assert set(app.graph.joins) == set(graph(*LINEAR).joins)


def test_a_run_that_is_over_is_done() -> None:
    run = workflow(graph(*LINEAR))
    run.plan("", ["a"])
    run.hint("a")
    assert run.end(resumable=False) == Hint("run", Forecast(102, {}, done=True), app=run.app.name)


def test_a_run_that_may_be_resumed_expects_nobody_for_now() -> None:
    run = workflow(graph((START, "a"), ("a", "b"), ("b", "a")))
    run.plan("", ["a"])
    run.hint("a")
    forecast = Forecast(102, {"a": None}, done=False)
    assert run.end(resumable=True) == Hint("run", forecast, app=run.app.name)


def test_a_straggler_of_a_run_that_is_over_revives_nothing() -> None:
    run = workflow(graph(*LINEAR))
    run.plan("", ["a"])
    ended = run.end(resumable=False).forecast
    run.finish("", "a")
    run.plan("", ["b"])
    assert run.hint("b").forecast == ended


@pytest.mark.parametrize("name_bytes", [10, 200])
def test_a_hint_of_any_workflow_is_one_that_a_server_takes(name_bytes: int) -> None:
    workers = [f"{number:x<{name_bytes}}" for number in range(MAX_AGENTS + 500)]
    run = workflow(graph((START, "a"), *(("a", worker) for worker in workers)))
    run.plan("", ["a"])
    hint = run.hint("a")
    assert decode_body(encode_body(hint)) == hint
    assert hint.forecast.steps["a"] == 0
    assert len(hint.forecast.steps) > 1000
    hint = run.hint("stranger")
    assert decode_body(encode_body(hint)) == hint
    assert hint.forecast.steps["stranger"] == 0
    run.end(resumable=True)
    for worker in workers:
        run.hint(worker)
    hint = run.end(resumable=True)
    assert decode_body(encode_body(hint)) == hint
    assert len(hint.forecast.steps) > 1000


def test_agents_beyond_the_hints_limit_are_unknown_and_not_null() -> None:
    workers = [f"w{number}" for number in range(MAX_AGENTS)]
    run = workflow(
        graph((START, "a"), *(("a", worker) for worker in workers), ("w0", "z"), ("z", "z"))
    )
    run.plan("", ["z"])
    run.hint("z")
    run.plan("", ["a"])
    assert "z" not in steps(run, "a")


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_share_a_workflow_and_every_hint_has_a_seq_of_its_own() -> None:
    run = workflow(graph(*NESTED, (START, "a"), ("a", "b"), ("b", "a")))
    begin = threading.Barrier(8)
    seen: list[list[int]] = [[] for _ in range(8)]
    failures: list[BaseException] = []

    def live(thread: int) -> None:
        try:
            begin.wait()
            for number in range(25):
                run.plan("", ["a", "team", f"only {thread} {number % 2}"])
                run.plan("team", ["team/r"], run=str(thread))
                seen[thread].append(run.hint("team/r").forecast.seq)
                run.push("", "b")
                seen[thread].append(run.hint(f"only {thread} {number % 2}").forecast.seq)
                run.finish("team", "team/r", run=str(thread))
                run.leave("team", run=str(thread))
                run.finish("", "a")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(own == sorted(own) for own in seen)
    every = [seq for own in seen for seq in own]
    assert sorted(every) == list(range(101, 101 + 8 * 25 * 2))


def test_an_agent_that_nobody_announces_is_the_next_step() -> None:
    run = workflow(graph(*LINEAR))
    run.join("", "a")
    run.finish("", "a")
    run.join("", "b")
    assert dict(run.hint("b").forecast.steps) == {"b": 0, "c": 1}


def test_an_agent_that_begins_beside_another_joins_its_step() -> None:
    run = workflow(graph((START, "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")))
    run.join("", "a")
    run.finish("", "a")
    run.join("", "b")
    run.join("", "c")
    assert dict(run.hint("c").forecast.steps) == {"b": 0, "c": 0, "d": 1}


def test_what_leads_to_a_step_leads_to_all_that_joins_it() -> None:
    run = workflow(graph((START, "a"), ("a", "b")))
    run.join("", "a")
    run.finish("", "a")
    run.join("", "b")
    run.join("", "c")
    learned = {(source, join.target) for join in run.app.graph.joins for source in join.sources}
    # Beside what was at work, too: nobody says beforehand that it will run at once.
    assert learned == {(START, "a"), ("a", "b"), ("a", "c"), ("b", "c")}


def test_an_agent_that_calls_after_its_turn_is_at_work() -> None:
    run = workflow(graph(("a", "b"), ("b", "c"), ("c", "a")))
    run.plan("", ["a"])
    run.plan("", ["b"])
    assert steps(run, "b") == {"b": 0, "c": 1, "a": 2}
    assert steps(run, "a") == {"a": 0, "b": 0, "c": 1}


def test_who_is_planned_already_does_not_join_again() -> None:
    run = workflow(graph(("a", "b")))
    for _ in range(2):
        run.join_once("", "a")
    assert steps(run, "a") == {"a": 0, "b": 1}
    run.finish("", "a")
    assert steps(run, "b") == {"b": 0, "a": None}


class Interrupted(dict[tuple[str, str], Any]):
    """The scopes of a workflow, at whose first look somebody else would change them."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile: Callable[[], None] | None = meanwhile

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        if meanwhile := self.meanwhile:
            self.meanwhile = None
            meanwhile()
        return found


def test_agents_that_begin_at_once_both_follow_what_came_before() -> None:
    run = workflow(graph(open_agents=[START]))
    run.join("", "planner")
    run.finish("", "planner")
    other = threading.Thread(target=run.join, args=("", "y"))

    def meanwhile() -> None:
        other.start()
        other.join(0.2)  # it waits for us

    scopes = Interrupted(meanwhile)
    scopes.update(run._scopes)
    run._scopes = scopes
    run.join("", "x")
    other.join()
    assert {join.target for join in run.app.graph.joins_from("planner")} == {"x", "y"}
