"""Traces in the simulated engine: times that can be worked out by hand, and counts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_replay import replay as replays
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import Forecaster, RecordedForecaster
from kvflow_replay.timed import TimedReplay, Timetable, pools_for, replay_timed, run
from kvflow_replay.trace_traffic import request_of
from kvflow_simulate.policies import Recency
from kvflow_simulate.requests import Served
from kvflow_simulate.sides import CEILING, SIDES, Side, chosen
from kvflow_simulate.simulate import Outcome, Sizes, future_of
from kvflow_simulate.tree import PrefixTree
from tests.simulate.machine import MACHINE

BLOCK = 16
LRU = SIDES["lru"]
ROOMY = Sizes(100_000, 100_000)


def call(at_s: float, blocks: list[int], *, tokens: int | None = None, **more: object) -> Call:
    prompt_tokens = len(blocks) * BLOCK if tokens is None else tokens
    return Call(at_s, prompt_tokens, 0, Tokens("q", blocks), **more)  # type: ignore[arg-type]


def serve(events: list[Event], *, speed: float = 1.0, sizes: Sizes = ROOMY) -> list[Served]:
    """By LRU, in the order in which calls were sent."""
    served = run(Timetable(events, BLOCK, speed), LRU, MACHINE, sizes).served
    return sorted(served, key=lambda each: each.sent_s)


def compared(events: list[Event], sizes: Sizes, *names: str, **more: bool) -> TimedReplay:
    trace = Timetable(events, BLOCK, is_hinted=more.get("is_hinted", True))
    return replay_timed(trace, chosen(list(names)), MACHINE, sizes)


def cycle(agents: int, rounds: int, *, every_s: float) -> list[Event]:
    """Agents in turn, each with ten blocks of its own and one that never comes again."""
    events: list[Event] = []
    for turn in range(agents * rounds):
        agent = turn % agents
        blocks = [agent * 1000 + block for block in range(10)]
        blocks.append(1_000_000 + turn)
        at_s = turn * every_s
        events.append(call(at_s, blocks, workflow="w", agent=f"a{agent}", app="cycle"))
    return events


# ---- times ----


def test_calls_are_sent_when_the_trace_says_whatever_the_answers() -> None:
    at_s = [100.0, 100.1, 100.3, 107.7]
    events: list[Event] = [call(each, [n]) for n, each in enumerate(at_s)]
    assert [each.sent_s for each in serve(events)] == [each - 100.0 for each in at_s]
    assert [each.sent_s for each in serve(events, speed=4)] == [(t - 100.0) / 4 for t in at_s]


def test_a_delay_counts_from_the_answer_in_the_engine() -> None:
    turns: list[Event] = [
        call(10.0, [1], workflow="s"),
        call(10.5, [1, 2], workflow="s", delay_s=0.5),
        call(11.0, [9], workflow="other"),
        call(12.5, [1, 2, 3], workflow="s", delay_s=2.0),
    ]
    first, *others = serve(turns)
    by_blocks = {len(each.request.prompt) // BLOCK: each for each in others if each.sent_s != 1.0}
    assert by_blocks[2].sent_s == first.ended_s + 0.5
    assert by_blocks[3].sent_s == by_blocks[2].ended_s + 2.0
    assert sum(each.sent_s == 1.0 for each in others) == 1
    fast = {len(each.request.prompt) // BLOCK: each for each in serve(turns, speed=4)}
    assert fast[3].sent_s == fast[2].ended_s + 0.5


def test_a_delay_may_be_shorter_than_the_answer_that_was_recorded() -> None:
    """The trace's own time of such a call counts for nothing."""
    turns: list[Event] = [
        call(0.0, [1], workflow="s", latency_s=50.0),
        call(51.0, [1, 2], workflow="s", delay_s=1.0),
    ]
    first, second = serve(turns)
    assert second.sent_s == first.ended_s + 1.0 < 10


def test_under_overload_calls_queue_and_latency_grows() -> None:
    events: list[Event] = [call(n / 10, [n, n + 1000], tokens=20) for n in range(100)]
    slow = replace(MACHINE, chunk_tokens=20)  # one call a pass, 1.02 s each
    served = run(Timetable(events, BLOCK), LRU, slow, ROOMY).served
    assert [each.request.id.number for each in served] == [*range(100)]
    latencies = [each.latency_s for each in served]
    assert latencies == sorted(latencies)
    assert latencies[-1] == pytest.approx(100 * 1.02 - 99 / 10)
    assert [each.sent_s for each in served] == [event.at_s for event in events]


# ---- tokens ----


def test_equal_blocks_share_kv_and_equal_partial_ones_do() -> None:
    events: list[Event] = [
        call(0, [1, 2, 3], tokens=40),
        call(10, [1, 2, 3], tokens=40),
        call(20, [1, 2, 4], tokens=48),
        call(30, [5, 2, 3], tokens=48),
    ]
    assert [each.kept_tokens for each in serve(events)] == [0, 39, 32, 0]


def test_answers_are_nobodys_prompt_and_all_but_their_last_token_are_cached() -> None:
    calls = [Call(0, 10, 5, Tokens("q", [n]), None) for n in (1, 2)]
    one, two = (request_of(each, number, BLOCK) for number, each in enumerate(calls))
    assert (len(one.prompt), len(one.answer), len(two.answer)) == (10, 4, 4)
    assert not {*one.answer} & {*two.answer, *one.prompt, *two.prompt}
    assert not request_of(replace(calls[0], output_tokens=0), 0, BLOCK).answer


def test_what_does_not_fit_is_left_out_and_what_just_fits_is_not() -> None:
    fits, too_large = (Call(n, 48, n, Tokens("q", [n, n + 10, n + 20])) for n in (17, 18))
    done = compared([fits, too_large], Sizes(64, 64), "lru")
    assert (done.calls, done.too_large) == (1, 1)
    assert {row["calls"] for row in done.rows} == {1}
    with pytest.raises(ConfigurationError, match="no call of the trace fits"):
        compared([too_large], Sizes(64, 64), "lru")


def test_a_speed_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="speed"):
        replay_timed(Timetable([call(0, [1])], BLOCK, float("nan")), [LRU], MACHINE, ROOMY)


def test_pools_are_those_of_a_replay_without_time_unless_they_are_given() -> None:
    calls = [each for each in cycle(10, 5, every_s=1) if isinstance(each, Call)]
    without = replays.sizes_for(calls, BLOCK, None, None)
    sizes = Sizes(without.device_blocks * BLOCK, without.host_blocks * BLOCK)
    assert pools_for(calls, BLOCK, None, None) == sizes
    assert pools_for(calls, BLOCK, 1001, None) == Sizes(1001, 2002)
    assert pools_for(calls, BLOCK, 1001, 7) == Sizes(1001, 7)


def chats(seed: int) -> list[Event]:
    """Prompts that begin alike, long after one another; none is another's beginning."""
    chance = random.Random(seed)
    events: list[Event] = []
    for turn in range(80):
        path = [chance.randrange(3)]
        for _ in range(chance.randrange(5)):
            path.append(hash((path[-1], chance.randrange(2))) % 2**40)
        events.append(call(turn * 100.0, [*path, 2**50 + turn]))
    return events


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(7, 40))
def test_with_long_gaps_lru_finds_what_it_finds_without_time(seed: int, blocks: int) -> None:
    events = chats(seed)
    timed = serve(events, sizes=Sizes(blocks * BLOCK, 0))
    sizes = replays.Sizes(blocks, 1, BLOCK)
    timeless = replays.replay(events, ("lru",), sizes, windows=len(events)).outcomes[0]
    found = [(each.kept_tokens, each.computed_tokens) for each in timed]
    assert found == [(sums.device_tokens, sums.computed_tokens) for sums in timeless.windows]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(7, 25))
def test_one_call_at_a_time_nobody_computes_less_than_the_optimum(seed: int, blocks: int) -> None:
    done = compared(chats(seed), Sizes(blocks * BLOCK, 0), "optimum-device", "ours-device", "lru")
    rows = {row["policy"]: row for row in done.rows}
    least = rows["optimum-device"]["computed_tokens"]
    assert least >= rows["ceiling"]["computed_tokens"]
    for name in ("ours-device", "lru"):
        assert rows[name]["computed_tokens"] >= least
        assert rows[name]["computed_of_optimum"] == rows[name]["computed_tokens"] / least


def mixture(seed: int) -> list[Event]:
    """Sessions and strangers, close to each other; some calls wait for answers, some runs end."""
    chance = random.Random(seed)
    events: list[Event] = []
    for turn in range(60):
        workflow = chance.choice([None, "w0", "w1", "w2"])
        at_s = turn * chance.choice([0.01, 0.5, 2.0])
        if workflow is not None and chance.random() < 0.15:
            events.append(End(at_s, workflow, chance.random() < 0.5))
            continue
        path = [chance.randrange(3)]
        for _ in range(chance.randrange(6)):
            path.append(hash((path[-1], chance.randrange(2))) % 2**40)
        tokens, output = len(path) * BLOCK - chance.randrange(BLOCK), chance.randrange(12)
        agent = chance.choice([None, "a", "b"])
        delay_s = chance.choice([None, None, 0.0, 3.0])
        blocks = Tokens("q", path)
        events.append(Call(at_s, tokens, output, blocks, workflow, agent, delay_s=delay_s))
    return replays.in_order(events)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["lru", "hicache", "papers", "ours", "ours-device", "optimum"]),
    st.integers(120, 400),
)
def test_every_call_is_answered_once_and_every_token_counted(
    seed: int, policy: str, pool_tokens: int
) -> None:
    events = mixture(seed)
    side, sizes = SIDES[policy], Sizes(pool_tokens, 2 * pool_tokens)
    trace = Timetable(events, BLOCK, speed=2.0)
    ceiling = run(trace, CEILING, MACHINE, sizes)
    served = run(trace, side, MACHINE, sizes, future_of(ceiling)).served
    numbers = [each.request.id.number for each in served]
    assert sorted(numbers) == [n for n, event in enumerate(events) if isinstance(event, Call)]
    for each in served:
        counts = (each.kept_tokens, each.prefetched_tokens, each.loaded_tokens)
        assert min(*counts, each.computed_tokens - 1) >= 0
        event = events[each.request.id.number]
        assert isinstance(event, Call)
        assert sum(counts) + each.computed_tokens == event.prompt_tokens
        assert event.delay_s is not None or each.sent_s == (event.at_s - events[0].at_s) / 2
        assert each.sent_s < each.first_token_s <= each.ended_s


# ---- forecasts ----

# Room for three of six agents, and on the host for all; 1.6 s for an agent's prefix on the link.
CYCLE = cycle(6, 20, every_s=6)
HALF = Sizes(3 * 160 + 60, 4000)


def test_what_is_foreseen_is_loaded_ahead_and_calls_take_less_time() -> None:
    done = compared(CYCLE, HALF, "hicache", "ours", "ours-noprefetch")
    rows = {row["policy"]: row for row in done.rows}
    assert done.hinted == done.calls == len(CYCLE)
    assert rows["ours"]["prefetch_found_tokens"] > 60 * 160
    for name in ("hicache", "ours-noprefetch"):
        assert rows[name]["prefetch_found_tokens"] == rows[name]["prefetched_tokens"] == 0
        assert rows["ours"]["mean_latency_ms"] < rows[name]["mean_latency_ms"] - 100
    assert rows["ours"]["computed_of_lru"] <= 1 == rows["hicache"]["computed_of_lru"]
    for row in done.rows:
        tokens = ("kept_tokens", "prefetch_found_tokens", "host_tokens", "computed_tokens")
        assert sum(row[name] for name in tokens) == row["prompt_tokens"]


def test_without_hints_ours_is_hicache() -> None:
    done = compared(CYCLE, HALF, "hicache", "ours", is_hinted=False)
    assert done.hinted == 0
    hicache, ours = ({**row, "policy": ""} for row in done.rows[1:])
    assert hicache == ours


def test_two_runs_are_the_same() -> None:
    sides = ("lru", "papers", "ours", "ours-device", "optimum")
    assert compared(CYCLE, HALF, *sides) == compared(CYCLE, HALF, *sides)


class _Heard(Recency):
    """Keeps what it is told."""

    def __init__(self, tree: PrefixTree) -> None:
        super().__init__(tree)
        self.heard: list[tuple[float, Hint]] = []

    def told(self, hint: Hint, now_s: float) -> None:
        self.heard.append((now_s, hint))


LATE_S = 0.5


def heard(events: list[Event], speed: float = 1) -> tuple[Outcome, list[tuple[float, Hint]]]:
    """What came of a trace, and what was said without a call, from when on it was."""
    made: list[_Heard] = []

    def make(tree: PrefixTree, _: object) -> Recency:
        made.append(_Heard(tree))
        return made[0]

    side = Side("heard", make, has_host_tier=False, is_hinted=True)
    far = replace(MACHINE, overhead_s=LATE_S)
    outcome = run(Timetable(events, BLOCK, speed), side, far, ROOMY)
    return outcome, [(at_s - LATE_S, hint) for at_s, hint in made[0].heard]


def test_ends_are_heard_when_the_trace_says() -> None:
    first = call(0, [1], workflow="w")
    events: list[Event] = [first, End(20, "w"), End(21, "nobody"), call(30, [2])]
    _, said = heard(events)
    assert [(at_s, hint.workflow, hint.forecast.done) for at_s, hint in said] == [(20, "w", True)]
    assert len(run(Timetable(events, BLOCK), LRU, MACHINE, ROOMY).served) == 2
    outcome, said = heard([first, End(20, "w", is_resumable=True)])
    assert [hint.forecast.done for _, hint in said] == [False]
    assert outcome.elapsed_s == outcome.served[0].ended_s < 20


def test_forecasts_are_in_the_times_of_the_engine() -> None:
    last: list[Hint] = []
    for speed in (1, 4):
        outcome, _ = heard(cycle(3, 8, every_s=40), speed)
        hint = outcome.served[-1].request.hint
        assert hint is not None
        last.append(hint)
    slow, fast = (hint.forecast.due_ms["a0"] for hint in last)
    assert fast == pytest.approx(slow / 4, rel=0.1) and slow > 30_000


def test_an_end_does_not_come_before_the_answer_of_its_workflows_last_call() -> None:
    events: list[Event] = [
        call(0, [1], workflow="w"),
        call(0.1, [1, 2], workflow="w", delay_s=40.0),
        End(0.2, "w"),
    ]
    outcome, said = heard(events)
    assert [at_s for at_s, _ in said] == pytest.approx([outcome.served[-1].ended_s])
    assert outcome.served[-1].ended_s > 40
    assert outcome.elapsed_s == outcome.served[-1].ended_s


def test_a_workflow_that_calls_again_before_its_end_could_be_said_has_none() -> None:
    again = call(0.3, [2], workflow="w")
    _, said = heard([call(0, [1], workflow="w"), End(0.2, "w"), again])
    assert not said
    _, said = heard([call(0, [1], workflow="w"), End(0.2, "w"), replace(again, at_s=50.0)])
    assert len(said) == 1


def test_what_an_ended_workflow_alone_has_used_goes_first() -> None:
    """LRU would give up the other's prompt, which is older."""
    events: list[Event] = [
        call(0, [100 + n for n in range(10)], workflow="other", agent="b"),
        call(50, [n for n in range(10)], workflow="w", agent="a"),
        End(100, "w"),
        call(150, [200 + n for n in range(10)]),
        call(200, [100 + n for n in range(10)], workflow="other", agent="b"),
    ]
    side, sizes = SIDES["ours-device"], Sizes(2 * 160 + 10, 0)
    assert run(Timetable(events, BLOCK), side, MACHINE, sizes).served[-1].kept_tokens == 159
    del events[2]
    assert run(Timetable(events, BLOCK), side, MACHINE, sizes).served[-1].kept_tokens < 159


def test_a_forecaster_that_hears_answers_says_what_one_says_that_knows_them() -> None:
    events = [
        replace(each, latency_s=0.5) for each in cycle(3, 6, every_s=2.0) if isinstance(each, Call)
    ]
    hears, knows = Forecaster(), RecordedForecaster()
    for each in events:
        assert hears.call(each) == knows.call(each)
        hears.answered(each)


def test_an_agent_is_at_work_until_all_of_its_calls_are_answered() -> None:
    forecaster = Forecaster()

    def made(at_s: float, agent: str) -> Call:
        return call(at_s, [1], workflow="w", agent=agent)

    for turn in range(5):
        for agent in ("a", "b"):
            forecaster.call(made(2.0 * turn, agent))
            forecaster.answered(made(2.0 * turn, agent))
    for _ in range(2):
        forecaster.call(made(20.0, "a"))
    forecaster.answered(made(20.0, "a"))
    hint = forecaster.call(made(21.0, "b"))
    assert hint is not None and hint.forecast.steps["a"] == 0
    forecaster.answered(made(21.0, "b"))
    forecaster.answered(made(21.0, "a"))
    forecaster.answered(made(21.0, "a"))  # one too many is nobody's
    hint = forecaster.call(made(22.0, "b"))
    assert hint is not None and hint.forecast.steps["a"] == 1
