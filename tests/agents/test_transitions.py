"""Edges of the step graph, as calls have shown them."""

from __future__ import annotations

from kvflow_agents.transitions import Edge, Limits, Transitions


def edges(transitions: Transitions, app: str | None = "app", workflow: str = "w") -> list[Edge]:
    return transitions.edges(workflow, app, {"a", "b", "c", "d"}, most=100)


def test_whoever_calls_after_another_follows_it() -> None:
    transitions = Transitions()
    for agent in "abab":
        transitions.called("w", "app", agent, {agent})
    assert edges(transitions) == [("a", "b", 2), ("b", "a", 1)]


def test_agents_of_one_step_follow_those_of_the_step_before_and_not_each_other() -> None:
    transitions = Transitions()
    for agent, planned in [("a", "a"), ("b", "bc"), ("c", "c"), ("d", "d")]:
        transitions.called("w", "app", agent, set(planned))
    assert edges(transitions) == [("a", "b", 1), ("a", "c", 1), ("b", "d", 1), ("c", "d", 1)]


def test_runs_of_an_application_are_counted_together_and_do_not_follow_each_other() -> None:
    transitions = Transitions()
    for workflow in ("one", "two"):
        transitions.called(workflow, "app", "a")
        transitions.called(workflow, "app", "b")
        transitions.ended(workflow)
    transitions.called("one", "app", "a")
    assert edges(transitions) == [("a", "b", 2)]


def test_a_workflow_without_an_application_keeps_its_own() -> None:
    transitions = Transitions()
    for workflow in ("w", "v"):
        transitions.called(workflow, None, "a")
        transitions.called(workflow, None, "b")
    assert edges(transitions, None) == [("a", "b", 1)]
    assert edges(transitions, "w") == []


def test_an_agent_that_calls_again_follows_itself() -> None:
    transitions = Transitions()
    transitions.called("w", "app", "a")
    transitions.called("w", "app", "a")
    assert edges(transitions) == [("a", "a", 1)]


def test_counts_are_bounded_and_what_is_frequent_stays() -> None:
    limits = Limits(most_apps=2, most_edges=10, most_workflows=3)
    transitions = Transitions(limits)
    for number in range(500):
        for agent in ("a", "b", f"rare {number}"):
            transitions.called(f"w{number % 5}", "app", agent)
    assert len(transitions._fronts) <= 3
    assert len(transitions._edges["app app"]) <= 10
    assert edges(transitions)[0][:2] == ("a", "b")
    for number in range(5):
        transitions.called("w", f"app{number}", "a")
        transitions.called("w", f"app{number}", "b")
    assert len(transitions._edges) <= 2
