from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.gathering import (
    MOST_PASSES,
    MOST_WORKFLOWS,
    PROMPT_BATCHES,
    QUIET_PASSES,
    Gathering,
)
from kvflow_agents.tenants import scoped_name


def serve(gathering: Gathering, workflows: Iterable[str], batches: int = 30) -> None:
    """Prefill what waits and decode until all have their answers, as an overlapped loop does."""
    gathering.began()
    run(gathering, batches)
    for workflow in workflows:
        gathering.answered(workflow)
    gathering.ran()


def run(gathering: Gathering, batches: int) -> None:
    for _ in range(batches):
        gathering.ran()


def in_step(*workflows: str) -> Gathering:
    """Workflows that have called again at once, and have their second answers."""
    gathering = Gathering()
    for _ in range(2):
        for workflow in workflows:
            gathering.arrived(workflow)
        serve(gathering, workflows)
    return gathering


def held_passes(gathering: Gathering, waiting: int) -> int:
    """For how many passes requests wait if nobody comes."""
    passes = 0
    while gathering.holds(waiting):
        passes += 1
    return passes


def test_the_first_of_workflows_in_step_waits_for_the_others() -> None:
    gathering = in_step("a", "b", "c")
    gathering.arrived("a")
    assert gathering.holds(1)
    gathering.arrived("b")
    assert gathering.holds(2)
    gathering.arrived("c")
    assert not gathering.holds(3)
    assert gathering.counts() == {"gathered_requests": 2, "gather_misses": 0}


def test_nobody_is_waited_for_before_it_has_called_again_at_once() -> None:
    gathering = Gathering()
    for workflow in "ab":
        gathering.arrived(workflow)
    serve(gathering, "ab")
    gathering.arrived("a")
    assert not gathering.holds(1)


def test_a_workflow_alone_never_waits() -> None:
    gathering = in_step("a")
    gathering.arrived("a")
    assert not gathering.holds(1)


@pytest.mark.parametrize(
    ("batches", "is_held"), [(PROMPT_BATCHES - 1, True), (PROMPT_BATCHES, False)]
)
def test_who_calls_after_others_have_run_is_not_in_step(batches: int, is_held: bool) -> None:
    gathering = in_step("a", "b")
    run(gathering, batches)  # one was run after the answers
    for workflow in "ab":
        gathering.arrived(workflow)
    serve(gathering, "ab")
    gathering.arrived("a")
    assert gathering.holds(1) == is_held


def test_waiting_ends_when_nobody_comes_for_a_while() -> None:
    gathering = in_step("a", "b", "c")
    gathering.arrived("a")
    assert [gathering.holds(1) for _ in range(3)] == [True] * 3
    gathering.arrived("b")
    assert held_passes(gathering, 2) == QUIET_PASSES
    assert gathering.counts() == {"gathered_requests": 1, "gather_misses": 1}
    assert not gathering.holds(2)


def test_waiting_ends_however_many_come() -> None:
    gathering = in_step("a", "b")
    passes = waiting = 0
    while True:
        gathering.arrived("a")
        waiting += 1
        if not gathering.holds(waiting):
            break
        passes += 1
    assert passes == MOST_PASSES


def test_who_was_missed_is_waited_for_again_after_ever_more_prompt_calls() -> None:
    gathering = in_step("a", "b")
    gathering.arrived("a")
    prompt_calls = []
    for _ in range(3):
        assert held_passes(gathering, 1) in (QUIET_PASSES, QUIET_PASSES - 1)
        serve(gathering, "a")
        gathering.arrived("b")
        prompt_calls.append(0)
        while True:
            serve(gathering, "ab")
            gathering.arrived("a")
            if gathering.holds(1):
                break
            gathering.arrived("b")
            prompt_calls[-1] += 1
    assert prompt_calls == [2, 4, 8]


def test_a_workflow_that_rests_is_not_waited_for() -> None:
    gathering = in_step("a", "b")
    gathering.rests("b")
    gathering.arrived("a")
    assert not gathering.holds(1)


def test_requests_of_no_workflow_wait_for_nobody_nor_do_others_beside_them() -> None:
    gathering = in_step("a", "b")
    gathering.arrived(None)
    assert not gathering.holds(1)
    gathering.arrived("a")
    assert not gathering.holds(2)


def test_a_tenant_waits_for_its_own_only() -> None:
    mine, theirs = scoped_name("me", "a"), scoped_name("them", "a")
    gathering = in_step(mine, theirs)
    gathering.arrived(mine)
    assert not gathering.holds(1)
    own = in_step(mine, scoped_name("me", "b"))
    own.arrived(mine)
    assert own.holds(1)
    own.arrived(theirs)
    assert not own.holds(2)


def test_what_an_earlier_prefill_had_no_room_for_is_not_held() -> None:
    gathering = in_step("a", "b")
    gathering.arrived("a")
    assert not gathering.holds(2)


def test_who_comes_late_belongs_to_the_next_prefill() -> None:
    gathering = in_step("a", "b")
    gathering.arrived("a")
    gathering.began()
    assert not gathering.holds(1)
    gathering.arrived("b")
    assert not gathering.holds(1)


def test_workflows_are_forgotten_beyond_a_bound() -> None:
    gathering = Gathering()
    for number in range(MOST_WORKFLOWS + 10):
        gathering.arrived(f"w{number}")
    assert len(gathering._paces) == MOST_WORKFLOWS


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["arrived", "answered", "rests", "began", "ran", "holds"]),
        st.sampled_from(["a", "b", "c", None]),
    ),
    max_size=300,
)


@given(EVENTS)
def test_nobody_waits_longer_than_the_bound_whatever_happens(events: list[tuple[str, str]]) -> None:
    gathering = in_step("a", "b", "c")
    waiting = 0
    for name, workflow in events:
        if name == "arrived":
            gathering.arrived(workflow)
            waiting += 1
        elif name in ("answered", "rests") and workflow is not None:
            getattr(gathering, name)(workflow)
        elif name == "began":
            gathering.began()
            waiting = 0
        elif name == "ran":
            gathering.ran()
        elif name == "holds" and waiting:
            gathering.holds(waiting)
    assert held_passes(gathering, max(waiting, 1)) <= QUIET_PASSES
