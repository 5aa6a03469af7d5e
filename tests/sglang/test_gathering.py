"""Gathering in the scheduler's loop: what it makes of SGLang's passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.gathering import Gathering
from kvflow_agents.hints import Hint
from kvflow_sglang import plugin
from kvflow_sglang.compat.scheduler import can_hold
from kvflow_sglang.mailbox import BEHIND, IN_FRONT, Mailbox
from kvflow_sglang.standalone import StandaloneCache


class Batch:
    def __init__(self, *reqs: str) -> None:
        self.reqs = reqs

    def is_empty(self) -> bool:
        return not self.reqs


class Scheduler:
    """As much of SGLang's as a pass looks at; whoever waits is admitted at once."""

    chunked_req: Any = None

    def __init__(self, gathering: Gathering | None) -> None:
        self.waiting_queue: list[str] = []
        self.heard: list[Any] = []
        self.tree_cache = SimpleNamespace(
            begin_pass=lambda running: None,
            catch_up=lambda reqs: None,
            mailbox=Mailbox(self.heard.append),
            gathering=gathering,
            lora=None,
            metrics=None,
        )

    def arrive(self, *workflows: str) -> None:
        for workflow in workflows:
            self.waiting_queue.append(workflow)
            if self.tree_cache.gathering is not None:
                self.tree_cache.gathering.arrived(workflow)

    def get_new_batch_prefill(self, running_batch: Batch) -> Any:
        admitted = Batch(*self.waiting_queue)
        self.waiting_queue = []
        plan = SimpleNamespace(batch_to_run=None, running_batch=running_batch)
        if not admitted.is_empty():
            plan.batch_to_run = admitted
        return plan

    def prefill(self, running_batch: Batch | None = None) -> tuple[str, ...]:
        """Whom a pass admits."""
        running_batch = running_batch or Batch()
        plan = plugin._next_prefill(Scheduler.get_new_batch_prefill, self, running_batch)
        assert plan.running_batch is running_batch
        return () if plan.batch_to_run is None else plan.batch_to_run.reqs

    def process(self, *workflows: str) -> int:
        """A batch's results are processed; how many hints had been heard when they went out."""

        def process_batch_result(scheduler: Scheduler, batch: Batch) -> int:
            return len(self.heard)

        heard: int = plugin._process_result(process_batch_result, self, Batch(*workflows))
        return heard

    def answer(self, *workflows: str) -> None:
        """The batch whose results are processed was the last of these calls."""
        self.process(*workflows)
        for workflow in workflows:
            self.tree_cache.gathering.answered(workflow)


@pytest.fixture
def scheduler() -> Scheduler:
    """Two workflows in step have got their second answers."""
    scheduler = Scheduler(Gathering())
    for _ in range(2):
        scheduler.arrive("a", "b")
        assert scheduler.prefill() == ("a", "b")
        scheduler.answer("a", "b")
    return scheduler


def test_the_first_waits_and_both_are_admitted_together(scheduler: Scheduler) -> None:
    scheduler.arrive("a")
    assert [scheduler.prefill() for _ in range(5)] == [()] * 5
    scheduler.arrive("b")
    assert scheduler.prefill() == ("a", "b")
    assert scheduler.prefill() == ()


def test_beside_running_requests_and_chunks_nobody_waits(scheduler: Scheduler) -> None:
    scheduler.arrive("a")
    assert scheduler.prefill(Batch("c")) == ("a",)
    scheduler.answer("a", "b")
    scheduler.arrive("a")
    scheduler.chunked_req = object()
    assert scheduler.prefill() == ("a",)


def test_passes_without_requests_do_not_use_up_the_time(scheduler: Scheduler) -> None:
    assert [scheduler.prefill() for _ in range(5000)] == [()] * 5000
    scheduler.arrive("b")
    assert scheduler.prefill() == ()


def test_batches_that_run_tell_who_is_slow(scheduler: Scheduler) -> None:
    for _ in range(10):
        scheduler.process("c")
    scheduler.arrive("a", "b")
    assert scheduler.prefill() == ("a", "b")
    scheduler.answer("a", "b")
    scheduler.arrive("a")
    assert scheduler.prefill() == ("a",)


def test_switched_off_it_does_nothing() -> None:
    scheduler = Scheduler(None)
    scheduler.arrive("a")
    assert scheduler.prefill() == ("a",)
    scheduler.process("a")


def put(scheduler: Scheduler, *rids: str) -> None:
    for rid in rids:
        scheduler.tree_cache.mailbox.put(SimpleNamespace(rid=rid))


def test_of_many_hints_few_are_heard_in_front_of_a_prefill_and_some_behind_the_answers() -> None:
    scheduler = Scheduler(None)
    put(scheduler, *map(str, range(IN_FRONT + BEHIND + 1)))
    scheduler.arrive("a")
    assert scheduler.prefill() == ("a",)
    assert len(scheduler.heard) == IN_FRONT
    assert scheduler.process("a") == IN_FRONT
    assert len(scheduler.heard) == IN_FRONT + BEHIND
    assert scheduler.process("a") == IN_FRONT + BEHIND
    assert len(scheduler.heard) == IN_FRONT + BEHIND + 1


def test_who_gathers_hears_one_hint_a_pass(scheduler: Scheduler) -> None:
    put(scheduler, *"12345")
    scheduler.arrive("a")
    assert scheduler.prefill() == ()
    assert len(scheduler.heard) == 1
    scheduler.arrive("b")
    assert scheduler.prefill() == ("a", "b")
    assert len(scheduler.heard) == 1 + IN_FRONT


def test_an_idle_device_leaves_no_hint_unheard() -> None:
    scheduler = Scheduler(None)
    put(scheduler, *"12345")
    assert scheduler.prefill(Batch("c")) == ()
    assert len(scheduler.heard) == IN_FRONT
    assert scheduler.prefill() == ()
    assert len(scheduler.heard) == 5


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({}, True),
        ({"pp_size": 2}, False),
        ({"enable_dp_attention": True}, False),
        ({"disaggregation_mode": "prefill"}, False),
    ],
)
def test_nobody_is_held_where_other_ranks_would_wait(settings: Any, holds: bool) -> None:
    usual = {"pp_size": 1, "enable_dp_attention": False, "disaggregation_mode": "null"}
    assert can_hold(SimpleNamespace(**usual | settings)) == holds


@pytest.mark.parametrize(
    ("told", "is_held"),
    [
        (Forecast(9, done=True), False),
        (Forecast(9, {"writer": None}), False),
        (Forecast(9, {"writer": 1}), True),
        (Forecast(9, {"writer": None}, changes=True), True),
        (Forecast(9), True),
    ],
    ids=["ended", "paused", "expected", "only a change", "nothing known"],
)
def test_nobody_is_waited_for_whose_run_is_over(told: Forecast, is_held: bool) -> None:
    cache = StandaloneCache("kvflow", pool_tokens=1000)
    gathering = cache.cache.gathering = Gathering()

    def call(seq: int, *workflows: str) -> list[Any]:
        hints = [Hint(each, Forecast(seq, {"writer": 0}), agent="writer") for each in workflows]
        return [cache.arrive(range(50), hint=hint) for hint in hints]

    for seq in range(3):
        requests = call(seq, "mine", "yours")
        gathering.began()
        for request in requests:
            cache.serve(request, [7])
    cache.cache.hear(Hint("yours", told))
    call(3, "mine")
    assert gathering.holds(1) == is_held
