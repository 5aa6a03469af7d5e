"""What an application learns from its runs."""

from __future__ import annotations

import logging
import threading

import pytest

from kvflow_agents import App, Join, StepGraph, app, scopes
from kvflow_agents.scope_steps import Front
from kvflow_agents.scopes import START


def edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)


def test_an_app_is_named_by_its_first_graph() -> None:
    graph = StepGraph([edge("a", "b")])
    team = App(graph)
    team.learn({"b"}, {"c"}, is_start=False)
    assert team.graph.joins_into("c")
    assert team.name == graph.fingerprint()
    assert len(team.name.encode()) <= 64


def test_a_known_edge_is_not_learned_again() -> None:
    team = App(StepGraph([edge("a", "b")]))
    before = team.graph
    team.learn({"a"}, {"b"}, is_start=False)
    assert team.graph is before


def test_one_known_source_explains_a_planned_agent() -> None:
    team = App(StepGraph([edge("a", "b"), edge("x", "c")]))
    before = team.graph
    team.learn({"a", "x"}, {"b", "c"}, is_start=False)
    assert team.graph is before


def test_a_join_of_which_one_source_ran_explains_its_target() -> None:
    team = App(StepGraph([Join(frozenset({"a", "b"}), "c")]))
    before = team.graph
    team.learn({"b"}, {"c"}, is_start=False)
    assert team.graph is before


def test_an_unmodelled_successor_is_learned_from_all_that_ran() -> None:
    team = App(StepGraph([edge("a", "b")]))
    team.learn({"a", "x"}, {"b", "c"}, is_start=False)
    assert set(team.graph.joins) == {edge("a", "b"), edge("a", "c"), edge("x", "c")}


def test_open_agents_alone_are_held_to_have_led_to_something_unmodelled() -> None:
    team = App(StepGraph([edge("a", "b")], agents="x", open_agents="x"))
    team.learn({"a", "x"}, {"c"}, is_start=False)
    assert list(team.graph.joins_into("c")) == [edge("x", "c")]


def test_a_graph_that_says_where_it_starts_is_believed_when_a_run_begins_elsewhere() -> None:
    team = App(StepGraph([edge(START, "a"), edge("a", "b")], passive=[START]))
    team.learn({START}, {"b"}, is_start=True)
    assert list(team.graph.joins_into("b")) == [edge("a", "b")]
    team.learn({START}, {"b"}, is_start=False)
    assert edge(START, "b") in team.graph.joins_into("b")


def test_a_graph_that_does_not_say_where_it_starts_learns_it() -> None:
    team = App(StepGraph(agents="ab"))
    team.learn({START}, {"b"}, is_start=True)
    assert list(team.graph.joins_into("b")) == [edge(START, "b")]


def test_a_holder_that_calls_the_model_is_learned_beside_its_scope() -> None:
    team = App(StepGraph([edge("a", "t/__start__")], agents=["t/b"], passive=["t/__start__"]))
    team.learn_caller("t")
    team.learn_caller("a")  # known as an agent already
    assert team.graph.outlook(["a"]).steps == {"a": 0, "t": 1}
    assert len(team.graph.joins) == 2


def adopting() -> tuple[App, StepGraph]:
    """An app with an AND join into the agent `tools`, and a graph that is found at work there."""
    team = App(StepGraph([Join(frozenset({"a", "b"}), "tools"), edge("tools", "a")]))
    start = "tools/x/__start__"
    return team, StepGraph(
        [edge(start, "tools/x/c"), edge("tools/x/c", "tools/x/d")], passive=[start]
    )


def test_an_adopted_graph_begins_whenever_its_holder_runs() -> None:
    team, inner = adopting()
    team.adopt("tools", "tools/x", lambda: inner)
    assert "tools/x/c" not in team.graph.outlook(["a"]).steps
    assert team.graph.outlook(["a", "b"]).steps == {
        "a": 0,
        "b": 0,
        "tools": 1,
        "tools/x/c": 1,
        "tools/x/d": 2,
    }


def test_adopting_a_graph_again_adds_only_what_leads_to_it_since() -> None:
    team, inner = adopting()
    team.adopt("tools", "tools/x", lambda: inner)
    adopted = team.graph
    team.adopt("tools", "tools/x", StepGraph)
    assert team.graph is adopted
    team.learn({"e"}, {"tools"}, is_start=False)
    team.adopt("tools", "tools/x", StepGraph)
    assert team.graph.outlook(["e"]).steps["tools/x/c"] == 1


def test_what_an_app_learns_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LEARNED_EDGES", 3)
    team = App(StepGraph([edge("a", "b")]))
    for number in range(10):
        team.learn({"a"}, {f"new {number}"}, is_start=False)
        team.adopt("a", f"a/{number}", lambda: StepGraph([edge("c", "d")]))
    assert len(team.graph.joins) == 4


def test_a_start_and_an_end_lie_inside_their_scope() -> None:
    assert (scopes.start_of(""), scopes.end_of("")) == ("__start__", "__end__")
    assert (scopes.start_of("a/b"), scopes.end_of("a/b")) == ("a/b/__start__", "a/b/__end__")


def test_threads_that_learn_at_once_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LEARNED_AGENTS", 1000)
    team = App(StepGraph())
    begin = threading.Barrier(8)

    def learn(thread: int) -> None:
        begin.wait()
        for number in range(50):
            team.learn({f"{thread} {number}"}, {f"{thread} {number + 1}"}, is_start=False)

    threads = [threading.Thread(target=learn, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(team.graph.joins) == 8 * 50


def test_an_app_without_structure_learns_agents_that_anyone_may_follow() -> None:
    app = App(StepGraph(passive=[START], open_agents=[START]), name="loop", is_open=True)
    app.learn({START}, {"a"}, is_start=True)
    app.learn({"a"}, {"b"}, is_start=False)
    app.learn({START}, {"b"}, is_start=True)
    assert app.name == "loop"
    assert app.graph.open_agents == {START, "a", "b"}
    assert {join.target for join in app.graph.joins_from(START)} == {"a", "b"}


def open_app() -> App:
    return App(StepGraph(passive=[START], open_agents=[START]), name="loop", is_open=True)


def test_agents_named_after_what_they_work_on_are_learned_up_to_a_limit_and_it_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    team = open_app()
    team.learn({START}, {"writer"}, is_start=True)
    with caplog.at_level(logging.WARNING, "kvflow_agents"):
        for number in range(1000):
            team.learn({"writer"}, {f"document-{number}"}, is_start=False)
            team.learn({f"document-{number}"}, {"writer"}, is_start=False)
    assert len(team.graph.agents) == app.MAX_LEARNED_AGENTS
    assert len(caplog.records) == 1
    team.learn({"document-3"}, {"document-7"}, is_start=False)
    assert edge("document-3", "document-7") in team.graph.joins_from("document-3")


def test_who_was_not_learned_may_be_followed_by_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LEARNED_AGENTS", 1)
    team = open_app()
    for before, agent in ((START, "a"), ("a", "b")):
        team.learn({before}, {agent}, is_start=False)
    assert not team.outlook(Front(("b",)), most_agents=10).is_closed


def test_a_structure_counts_as_known_whatever_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_LEARNED_AGENTS", 1)
    team = App(StepGraph(agents="abcd"))
    team.learn({"a"}, {"b"}, is_start=False)
    team.learn({"b"}, {"c"}, is_start=False)
    team.adopt("a", "a/x", lambda: StepGraph([edge("a/x/__start__", "a/x/c")], agents=["a/x/d"]))
    team.learn({"a/x/c"}, {"a/x/d"}, is_start=False)
    assert team.graph.joins_into("a/x/d") and team.graph.joins_into("c")
