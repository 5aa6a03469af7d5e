"""What is loaded ahead, in which order and how much: pure, on claims without a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.claims import Claim
from kvflow_agents.eviction import (
    Preference,
    Rank,
    Standing,
    beyond_share,
    by_standing,
    may_displace,
    rank,
)
from kvflow_agents.link_rate import FEWEST_COPIES, MOST_COPIES, LinkRate
from kvflow_agents.prefetch import (
    FEWEST_TOKENS,
    LOADS_IN_TIME,
    Load,
    PrefetchQueue,
    Span,
    tokens_to_load,
)
from kvflow_agents.tenants import Tenant


def claim(
    steps: int | None, tokens: int = 100, *, due: int | None = None, tenant: Tenant = None
) -> Claim[Any]:
    """A claim ordered by its steps, or by when it is due."""
    distance = steps if due is None else due
    return Claim(range(tokens), steps, distance, None, tokens, tenant)  # type: ignore[arg-type]


def queue(
    horizon_steps: int = 1, most_agents: int = 4, most_tokens: int = 64
) -> PrefetchQueue[Any]:
    return PrefetchQueue(
        horizon_steps=horizon_steps, most_agents=most_agents, most_tokens=most_tokens
    )


def expected_at(distance: int) -> Rank:
    """KV whose nearest agent is so far from its call."""
    return rank(Standing.EXPECTED, distance, 1.0, 1)


def everything(one: Claim[Any]) -> Span:
    return 0, one.depth_tokens


def anything(load: Load[Any]) -> int:
    """There is room for it."""
    return load.tokens


def nothing(one: Claim[Any]) -> Span:
    return one.depth_tokens, one.depth_tokens


def copy(made: PrefetchQueue[Any], missing: Any = everything) -> list[Load[Any]]:
    """The next copy, on a device that has room for everything."""
    loads: list[Load[Any]] = []

    def reserve(load: Load[Any]) -> int:
        loads.append(load)
        return load.tokens

    assert made.fill(missing, anything, reserve) == sum(load.tokens for load in loads)
    return loads


def filled(made: PrefetchQueue[Any], now_ms: int | None) -> int:
    return made.fill(everything, anything, anything, now_ms=now_ms)


def order(made: PrefetchQueue[Any]) -> list[Claim[Any]]:
    """The claims in the order in which they would be loaded, each loaded at once."""
    loaded: list[Claim[Any]] = []

    def missing(one: Claim[Any]) -> Span:
        return nothing(one) if one in loaded else everything(one)

    while loads := copy(made, missing):
        loaded.append(loads[0].claim)
    return loaded


class Device:
    """Slots that expected KV holds, of each tenant furthest first, and where loads go."""

    def __init__(self, victims: Iterable[tuple[Tenant, int, int]]) -> None:
        """`victims`: whose they are, how far from their call, and how many tokens."""
        self.held: Counter[tuple[Tenant, int]] = Counter()
        for tenant, distance, tokens in victims:
            self.held[tenant, distance] += tokens
        self.loaded: Counter[int] = Counter()  # by the claim's identity

    def missing(self, one: Claim[Any]) -> Span:
        return min(self.loaded[id(one)], one.depth_tokens), one.depth_tokens

    def room_for(self, load: Load[Any]) -> int:
        """How many tokens of a load may take the place of others."""
        return sum(tokens for _, tokens in self._victims_of(load))

    def reserve(self, load: Load[Any]) -> int:
        left = load.tokens
        for victim, tokens in self._victims_of(load):
            taken = min(tokens, left)
            self.held[victim] -= taken
            left -= taken
        assert not left, "there was room for all of it"
        self.loaded[id(load.claim)] += load.tokens
        return load.tokens

    def _victims_of(self, load: Load[Any]) -> list[tuple[tuple[Tenant, int], int]]:
        mine = [(key, tokens) for key, tokens in self.held.items() if key[0] == load.claim.tenant]
        return [
            (key, tokens)
            for key, tokens in sorted(mine, key=lambda each: -each[0][1])
            if tokens and may_displace(expected_at(key[1]), load.beyond, by_standing)
        ]


@pytest.mark.parametrize(
    ("span", "room_tokens", "page_size", "tokens"),
    [
        ((0, 100), 100, 1, 100),
        ((0, 100), 99, 1, 64),
        ((0, 100), 63, 1, 0),
        ((40, 300), 90, 1, 128 - 40),  # pieces are those of the prompt
        ((40, 300), 20, 1, 0),
        ((0, 640), 500, 48, 384),  # and whole pages
    ],
)
def test_what_finds_too_little_room_is_loaded_in_whole_pieces(
    span: Span, room_tokens: int, page_size: int, tokens: int
) -> None:
    assert tokens_to_load(*span, room_tokens, page_size) == tokens


def test_the_nearest_agents_come_first_then_who_was_heard_first() -> None:
    made = queue()
    far, near, also_near = claim(1), claim(0), claim(0)
    made.want("one", [far, near])
    made.want("two", [also_near])
    assert order(made) == [near, also_near, far]


def test_only_agents_within_the_horizon_are_wanted() -> None:
    made = queue(horizon_steps=2)
    within = claim(2)
    made.want("w", [claim(3), within, claim(None), claim(1_000_000)])
    assert order(made) == [within]
    assert [made.covers(steps) for steps in (None, 0, 2, 3)] == [False, True, True, False]


def test_of_many_branches_the_nearest_few_are_loaded() -> None:
    made = queue(most_agents=3)
    branches = [claim(1) for _ in range(10)]
    planned = claim(0)
    made.want("w", [*branches, planned])
    assert order(made) == [planned, *branches[:2]]


def test_a_load_is_the_first_part_of_what_is_missing() -> None:
    made = queue(most_tokens=64)
    wanted = claim(1)
    made.want("w", [wanted])
    for span, expected in [((0, 100), (0, 64)), ((30, 100), (30, 64)), ((90, 100), (90, 100))]:
        (load,) = copy(made, lambda one, span=span: span)
        assert ((load.start, load.stop), load.beyond) == (expected, 1)


def test_small_loads_go_in_one_copy_up_to_its_size() -> None:
    made = queue(most_tokens=170)
    claims = [claim(1, tokens=50), claim(0, tokens=50), claim(1, tokens=80), claim(1, tokens=50)]
    made.want("w", claims)
    loads = copy(made)
    assert [load.claim for load in loads] == [claims[1], claims[0], claims[2]]
    assert [load.stop for load in loads] == [50, 50, 64]


def test_what_is_on_the_device_is_not_looked_at_again() -> None:
    made = queue()
    made.want("w", [claim(0), claim(1)])
    assert not copy(made, nothing)
    looked_at: list[Claim[Any]] = []

    def missing(one: Claim[Any]) -> Span:
        looked_at.append(one)
        return everything(one)

    assert not copy(made, missing) and not looked_at
    assert made.note_lost(0)
    assert len(order(made)) == 2


def test_what_is_lost_further_away_than_anything_wanted_is_nobodys() -> None:
    made = queue()
    made.want("w", [claim(1)])
    assert not copy(made, nothing)
    assert not made.note_lost(2)
    assert not made.note_lost(None)
    assert made.note_lost(1)


def test_a_new_forecast_replaces_the_last() -> None:
    made = queue()
    old, new = claim(0), claim(0)
    made.want("w", [old])
    made.want("w", [new])
    assert made.note_lost(0)
    assert order(made) == [new]


def test_an_ended_workflow_wants_nothing() -> None:
    made = queue()
    other = claim(1)
    made.want("ended", [claim(0)])
    made.want("other", [other])
    made.forget("ended")
    made.forget("never heard of")
    assert made.note_lost(0)
    assert order(made) == [other]
    made.clear()
    assert not made.note_lost(0)
    assert order(made) == []


def test_the_horizon_is_one_step_further_while_loads_come_late() -> None:
    made = queue(horizon_steps=1)
    further = claim(2)

    def is_wanted() -> bool:
        made.want("w", [further])
        return order(made) == [further]

    assert not is_wanted()
    for _ in range(3):
        made.note_late()
        assert is_wanted()
    assert not made.covers(3)
    for _ in range(LOADS_IN_TIME - 1):
        made.note_in_time()
    assert is_wanted()
    made.note_in_time()
    assert not is_wanted()


@pytest.mark.parametrize("preference", [by_standing, lambda ordinary, expected: True])
def test_only_what_is_needed_later_gives_way(preference: Preference) -> None:
    gives_way = [may_displace(expected_at(steps), 1, preference) for steps in (0, 1, 2)]
    assert gives_way == [False, False, True]
    assert may_displace(rank(Standing.SPENT, None, 5.0, 1), 0, preference)


def test_kv_of_which_nothing_is_told_gives_way_if_the_load_is_used_sooner() -> None:
    ordinary = rank(Standing.ORDINARY, None, 5.0, 1)

    def is_used_after_7(_: Rank, expected: Rank) -> bool:
        return expected.distance > 7

    gives_way = [may_displace(ordinary, beyond, is_used_after_7) for beyond in (6, 7, 8)]
    assert gives_way == [True, True, False]
    # Without times whatever is expected is wanted more, and a share of its own is no reason.
    assert may_displace(ordinary, 8, by_standing)
    assert may_displace(ordinary, 8, beyond_share(by_standing))


@pytest.mark.parametrize(
    ("due_ms", "now_ms", "beyond"), [(1000, 0, 2000), (1000, 900, 1100), (1000, 1200, 1000)]
)
def test_on_the_clock_kv_gives_way_that_is_needed_after_twice_as_long(
    due_ms: int, now_ms: int, beyond: int
) -> None:
    made = queue(most_tokens=100)
    made.want("w", [claim(1, due=due_ms)])
    loads: list[Load[Any]] = []

    def reserve(load: Load[Any]) -> int:
        loads.append(load)
        return load.tokens

    made.fill(everything, anything, reserve, now_ms=now_ms)
    assert [load.beyond for load in loads] == [beyond]


def test_loads_go_in_the_order_in_which_room_is_made() -> None:
    by_steps, by_time = queue(), queue()
    near, far = claim(0), claim(1)
    by_steps.want("w", [far, near])
    assert order(by_steps) == [near, far]
    late, soon = claim(0, due=30_000), claim(1, due=1_000)
    by_time.want("w", [late, soon])
    assert order(by_time) == [soon, late]


def test_of_the_branches_those_that_are_due_first_are_loaded() -> None:
    made = queue(most_agents=2)
    likely, unlikely, planned = claim(1, due=20), claim(1, due=500), claim(0, due=10)
    made.want("w", [unlikely, likely, planned])
    assert order(made) == [planned, likely]


def test_what_finds_no_room_takes_none_of_the_copy_from_others() -> None:
    """The agent with fewer steps is due later than what the device holds, the other is not."""
    made = queue(most_tokens=8192)
    blocked = claim(0, 9000, due=30_000)
    free = claim(1, 4000, due=1_000)
    others = claim(0, 4000, due=30_000, tenant="other")
    made.want("a", [blocked])
    made.want("b", [free])
    made.want("c", [others])
    device = Device([(None, 10_000, 50_000), ("other", 40_000, 50_000)])
    assert made.fill(device.missing, device.room_for, device.reserve) == 8000
    assert (device.loaded[id(free)], device.loaded[id(others)]) == (4000, 4000)
    assert made.fill(device.missing, device.room_for, device.reserve) == 0


def test_who_waits_for_another_copy_keeps_nobody_from_this_one() -> None:
    made = queue(most_tokens=100)
    shared, other = claim(0), claim(1)
    made.want("w", [shared, other])

    def room_for(load: Load[Any]) -> int | None:
        return None if load.claim is shared else load.tokens

    assert made.fill(everything, room_for, anything) == 100


def test_who_finds_less_than_a_piece_keeps_nobody_smaller_from_it() -> None:
    made = queue(most_tokens=200)
    large, small = claim(0, 100), claim(1, 30)
    made.want("w", [large, small])
    device = Device([(None, 5, 40)])
    assert made.fill(device.missing, device.room_for, device.reserve) == 30
    assert device.loaded[id(small)] == 30


def test_what_cannot_begin_takes_none_of_the_copy() -> None:
    made = queue(most_tokens=100)
    stuck, other = claim(0), claim(1)
    made.want("w", [stuck, other])

    def reserve(load: Load[Any]) -> int:
        return 0 if load.claim is stuck else load.tokens

    assert made.fill(everything, anything, reserve) == 100


def test_a_copy_is_cut_at_whole_pages() -> None:
    made: PrefetchQueue[Any] = PrefetchQueue(
        horizon_steps=1, most_agents=4, most_tokens=500, page_size=48
    )
    made.want("w", [claim(0, 960)])
    assert [load.stop for load in copy(made)] == [384]


def test_a_forecast_may_run_out_while_a_copy_is_filled() -> None:
    made = queue(most_tokens=200)
    first, dormant, ended = claim(0), claim(1), claim(1)
    made.want("first", [first])
    made.want("dormant", [dormant])
    made.want("ended", [ended])

    def reserve(load: Load[Any]) -> int:
        assert load.claim is first
        dormant.steps = dormant.distance = ended.steps = ended.distance = None
        made.forget("ended")
        return load.tokens

    assert made.fill(everything, anything, reserve) == 100


_claims = st.builds(
    claim,
    st.integers(0, 2),
    st.integers(1, 300),
    due=st.none() | st.integers(0, 9),
    tenant=st.sampled_from([None, "a", "b"]),
)
_victims = st.tuples(st.sampled_from([None, "a", "b"]), st.integers(0, 9), st.integers(1, 200))


@given(st.lists(_claims, max_size=8), st.lists(_victims, max_size=8), st.integers(16, 200))
def test_nobody_who_could_be_loaded_is_kept_from_it_by_one_who_cannot(
    claims: list[Claim[Any]], victims: list[tuple[Tenant, int, int]], most_tokens: int
) -> None:
    made = queue(horizon_steps=2, most_tokens=most_tokens)
    for number, each in enumerate(claims):
        made.want(f"w{number}", [each])
    device = Device(victims)
    while (tokens := made.fill(device.missing, device.room_for, device.reserve)) > 0:
        assert tokens <= most_tokens
    for each in claims:
        start, stop = device.missing(each)
        if stop - start >= FEWEST_TOKENS:
            assert each.distance is not None
            load = Load(each, start, stop, each.distance)
            room = min(device.room_for(load), most_tokens)
            assert tokens_to_load(start, stop, room) < FEWEST_TOKENS


def learned(tokens_per_s: int) -> PrefetchQueue[Any]:
    """A queue that has seen copies land, at 0 ms then."""
    made = queue(most_tokens=1000)
    for _ in range(FEWEST_COPIES):
        made.want("w", [claim(0, tokens_per_s)])
        assert filled(made, -1000) == tokens_per_s
        made.note_landed(0)
    made.forget("w")
    return made


def test_a_load_takes_others_along_only_as_far_as_it_is_there_in_time_itself() -> None:
    for due_ms, tokens in [(100, 200), (300, 264), (700, 648), (5000, 968)]:
        made = learned(tokens_per_s=1000)
        made.want("sooner", [claim(0, 200, due=due_ms)])
        made.want("later", [claim(1, 2000, due=10_000)])
        assert filled(made, now_ms=0) == tokens


def test_a_tenant_whose_turn_it_is_does_not_let_others_in_whom_it_delays() -> None:
    made = learned(tokens_per_s=1000)
    made.want("far", [claim(1, 300, due=9_000, tenant="a")])
    made.want("near", [claim(0, 200, due=400)])
    made.want("more", [claim(1, 500, due=9_500)])
    # Both go, whoever has the turn, and with them no more than is there at 400 ms: nothing.
    assert filled(made, now_ms=0) == 500


def test_an_early_start_is_never_too_late_for_the_agent_itself() -> None:
    made = learned(tokens_per_s=100)
    made.want("w", [claim(0, 2000, due=5)])
    assert filled(made, now_ms=0) == 960
    made.note_landed(None)
    made.want("w", [claim(0, 2000, due=5)])
    assert filled(made, now_ms=50) == 960, "and it may be overdue"


def test_where_calls_are_steps_away_nothing_is_known_of_the_link() -> None:
    made = learned(tokens_per_s=10)
    made.want("w", [claim(0), claim(1)])
    assert filled(made, None) == 200
    made.note_landed(None)
    unknown = queue(most_tokens=1000)
    unknown.want("w", [claim(0), claim(1)])
    assert filled(unknown, now_ms=0) == 200


def test_a_copy_that_was_given_up_teaches_nothing() -> None:
    made = queue(most_tokens=1000)
    for _ in range(FEWEST_COPIES):
        made.want("w", [claim(0)])
        assert filled(made, 0) == 100
        made.clear()
        made.note_landed(100_000)
    made.want("w", [claim(0, due=1), claim(1, due=2)])
    assert filled(made, 0) == 200


def test_the_rate_of_a_link_is_that_of_its_latest_copies() -> None:
    link = LinkRate()
    for _ in range(FEWEST_COPIES):
        assert link.tokens_in(1000) is None
        link.note(100, 0)
    assert link.tokens_in(1000) is None, "no message has come during any"
    link.note(100, 100)
    assert link.tokens_in(1000) == 1000 * (FEWEST_COPIES + 1)
    for _ in range(10 * int(MOST_COPIES)):
        link.note(100, 100)
    found = link.tokens_in(1000)
    assert found is not None and 1000 <= found < 1001
    assert link.tokens_in(-5) == 0


def test_tenants_take_turns_on_the_link_however_near_one_says_its_agents_are() -> None:
    made = queue(most_tokens=100)
    flood = [claim(0, tenant="flood") for _ in range(4)]
    mine = [claim(1, tenant="mine") for _ in range(2)]
    made.want("flood", flood)
    made.want("mine", mine)
    assert order(made) == [flood[0], mine[0], flood[1], mine[1], *flood[2:]]


def test_a_tenant_gets_no_more_than_its_budget_and_leaves_the_rest_to_others() -> None:
    made = queue(most_tokens=1000)
    one, other = [claim(0, tenant="one") for _ in range(3)], claim(1, tenant="other")
    made.want("one", one)
    made.want("other", [other])
    budgets: dict[Tenant, int] = {"one": 164, "other": 0}
    loads: list[Load[Any]] = []

    def reserve(load: Load[Any]) -> int:
        loads.append(load)
        return load.tokens

    made.fill(everything, anything, reserve, lambda tenant: budgets[tenant])
    assert [(load.claim, load.start, load.stop) for load in loads] == [
        (one[0], 0, 100),
        (one[1], 0, 64),
    ]
    # What had no budget is still wanted.
    loads.clear()
    made.fill(everything, anything, reserve)
    assert [load.claim for load in loads] == [other, *one]
