"""The best policy without the future, where it is known what that is."""

from __future__ import annotations

import pytest

from group_chat_bound import chances_of, fewest_misses, misses, seen_turns

AGENTS = "abcde"


@pytest.mark.parametrize("room", [2, 3, 4])
def test_in_a_cycle_the_chances_tell_the_future(room: int) -> None:
    speakers = AGENTS * 200
    fewest = 1 - (room - 1) / (len(AGENTS) - 1)
    assert fewest_misses(chances_of(speakers), room) == pytest.approx(fewest)
    assert misses(speakers, room).min == pytest.approx(fewest, abs=0.01)
    assert misses(speakers, room).lru == 1


@pytest.mark.parametrize("room", [2, 3, 4])
def test_where_all_are_alike_no_policy_is_better_than_another(room: int) -> None:
    chances = {agent: dict.fromkeys(AGENTS, 0.2) for agent in AGENTS}
    assert fewest_misses(chances, room) == pytest.approx(1 - room / len(AGENTS))


def test_in_a_group_chat_it_lies_between_min_and_lru() -> None:
    speakers = seen_turns(20_000)
    best = fewest_misses(chances_of(speakers), 3)
    assert misses(speakers, 3).min < best < misses(speakers, 3).lru
