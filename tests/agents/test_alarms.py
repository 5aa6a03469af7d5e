"""Alarms: who rings, in which order, and what is no longer wanted."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.alarms import Alarms

MANY = 100


@dataclass(eq=False)
class Sleeper:
    name: str
    alarm_ms: int | None = None


def test_the_earliest_rings_first_and_once() -> None:
    alarms: Alarms[str, Sleeper] = Alarms()
    late, soon, never = Sleeper("late"), Sleeper("soon"), Sleeper("never")
    for sleeper, at_ms in ((late, 20), (soon, 10), (never, 15)):
        alarms.set("owner", sleeper, at_ms)
    alarms.take_back(never)
    assert list(alarms.rung(9, MANY)) == []
    assert list(alarms.rung(20, MANY)) == [("owner", soon), ("owner", late)]
    assert list(alarms.rung(30, MANY)) == []
    assert soon.alarm_ms is None


def test_an_alarm_takes_the_place_of_the_one_before() -> None:
    alarms: Alarms[str, Sleeper] = Alarms()
    sleeper = Sleeper("a")
    alarms.set("owner", sleeper, 10)
    alarms.set("owner", sleeper, 30)
    alarms.set("owner", sleeper, 30)
    assert list(alarms.rung(20, MANY)) == []
    assert list(alarms.rung(30, MANY)) == [("owner", sleeper)]


def test_who_rings_may_take_back_who_would_at_the_same_time() -> None:
    alarms: Alarms[str, Sleeper] = Alarms()
    one, other = Sleeper("one"), Sleeper("other")
    alarms.set("owner", one, 10)
    alarms.set("owner", other, 10)
    for _, sleeper in alarms.rung(10, MANY):
        assert sleeper is one
        alarms.set("owner", other, 20)
    assert list(alarms.rung(20, MANY)) == [("owner", other)]


def test_of_many_whose_time_has_come_the_others_ring_later() -> None:
    alarms: Alarms[int, Sleeper] = Alarms()
    for who in range(5):
        alarms.set(who, Sleeper(str(who)), 10)
    rang = [[who for who, _ in alarms.rung(10, 2)] for _ in range(4)]
    assert rang == [[0, 1], [2, 3], [4], []]


@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 9)))))
def test_those_ring_whose_time_has_come(changes: list[tuple[int, int | None]]) -> None:
    alarms: Alarms[int, Sleeper] = Alarms()
    sleepers = [Sleeper(str(number)) for number in range(5)]
    wanted: dict[int, int] = {}
    for who, at_ms in changes:
        wanted.pop(who, None)
        if at_ms is None:
            alarms.take_back(sleepers[who])
        else:
            wanted[who] = at_ms
            alarms.set(who, sleepers[who], at_ms)
    assert sorted(who for who, _ in alarms.rung(5, MANY)) == sorted(
        who for who, at_ms in wanted.items() if at_ms <= 5
    )


def test_alarms_that_were_set_again_and_again_take_no_room() -> None:
    alarms: Alarms[str, Sleeper] = Alarms()
    sleeper = Sleeper("a")
    for at_ms in range(10_000):
        alarms.set("owner", sleeper, at_ms)
    assert len(alarms._times) <= 2 + 64
    assert len(alarms._at) == 1
