"""When nothing is loaded ahead, for requests have just arrived."""

from __future__ import annotations

from kvflow_agents.arrivals import MOST_PUT_OFF, Arrivals


def test_an_arrival_goes_first_in_its_pass_and_in_the_one_after() -> None:
    arrivals = Arrivals()
    assert not arrivals.go_first()
    arrivals.note()
    assert [arrivals.go_first() for _ in range(3)] == [True, True, False]


def test_arrivals_without_end_do_not_put_off_for_ever() -> None:
    arrivals = Arrivals()
    passes = []
    for _ in range(2 * (MOST_PUT_OFF + 1)):
        arrivals.note()
        passes.append(arrivals.go_first())
    assert passes == 2 * [*MOST_PUT_OFF * [True], False]
