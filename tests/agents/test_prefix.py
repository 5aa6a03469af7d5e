"""What an agent's next prompt will share with its last, learned prompt by prompt."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvflow_agents.prefix import PrefixHistory, Tokens, common_prefix_tokens

FIXED = list(range(100, 150))


def tokens(*parts: list[int]) -> Tokens:
    return array("q", [token for part in parts for token in part])


def counted(one: Tokens, other: Tokens) -> int:
    shared = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


@given(
    shared=st.integers(0, 700),
    ours=st.lists(st.integers(0, 1), max_size=70),
    theirs=st.lists(st.integers(0, 1), max_size=70),
)
def test_the_common_prefix_is_that_of_a_loop(
    shared: int, ours: list[int], theirs: list[int]
) -> None:
    one, other = tokens([7] * shared, ours), tokens([7] * shared, theirs)
    assert common_prefix_tokens(one, other) == counted(one, other)


@pytest.mark.parametrize("differs_at", [0, 1, 63, 64, 65, 191, 192, 193, 447, 448, 999])
def test_the_common_prefix_ends_at_the_first_difference(differs_at: int) -> None:
    one, other = tokens([0] * 1000), tokens([0] * 1000)
    other[differs_at] = 1
    other[-1] = 2
    assert common_prefix_tokens(one, other) == differs_at
    assert common_prefix_tokens(one, one) == 1000
    assert common_prefix_tokens(one, one[:differs_at]) == differs_at


def test_the_first_prompt_stands_in_whole() -> None:
    history = PrefixHistory()
    assert (history.prefix_tokens, history.tokens_kept) == (0, 0)
    history.see_prompt(tokens(FIXED, [1, 2]))
    assert history.prefix_tokens == 52
    history.see_answer(tokens(FIXED, [1, 2], [9] * 8))
    assert history.prefix_tokens == 52  # whether the answer comes back is not known yet
    assert history.tokens_kept == 60


def test_a_fixed_prompt_with_another_tail_each_time() -> None:
    history = PrefixHistory()
    for call in range(5):
        prompt = tokens(FIXED, [call, call + 1, call + 2])
        history.see_prompt(prompt)
        assert history.prefix_tokens == (53 if call == 0 else 50)
        history.see_answer(prompt + tokens([9, 9]))
        assert history.prefix_tokens == (53 if call == 0 else 50)


def test_a_growing_history_is_kept_whole_answers_included() -> None:
    history = PrefixHistory()
    said = tokens(FIXED)
    for turn in range(4):
        said = said + tokens([turn] * 3)
        history.see_prompt(said)
        assert history.prefix_tokens == len(said)
        said = said + tokens([50 + turn] * 5)
        history.see_answer(said)
        assert history.prefix_tokens == (len(said) if turn else len(said) - 5)


def test_a_history_that_leaves_the_answers_out_is_still_kept_whole() -> None:
    history = PrefixHistory()
    said = tokens(FIXED)
    for turn in range(3):
        said = said + tokens([turn] * 3)
        history.see_prompt(said)
        history.see_answer(said + tokens([99]))
    assert history.prefix_tokens == len(said) + 1


def test_a_history_cut_down_is_learned_anew() -> None:
    history = PrefixHistory()
    history.see_prompt(tokens(FIXED, [1]))
    history.see_prompt(tokens(FIXED, [1, 2, 3]))
    assert history.prefix_tokens == 53
    summarized = tokens(FIXED[:20], [7, 7])
    history.see_prompt(summarized)
    assert history.prefix_tokens == 20
    history.see_prompt(summarized + tokens([8]))
    assert history.prefix_tokens == 23


def test_the_same_prompt_again_is_expected_a_third_time() -> None:
    history = PrefixHistory()
    for _ in range(3):
        history.see_prompt(tokens(FIXED, [1, 2]))
        assert history.prefix_tokens == 52
    history.see_prompt(tokens(FIXED, [3]))
    assert history.prefix_tokens == 50


def test_prompts_with_nothing_in_common_have_no_prefix() -> None:
    history = PrefixHistory()
    history.see_prompt(tokens([1, 2, 3]))
    history.see_prompt(tokens([4, 5, 6]))
    assert history.prefix_tokens == 0


def test_another_runs_prompts_stand_in_for_the_first_one() -> None:
    like = tokens(FIXED, [1, 2])
    history = PrefixHistory(like=like)
    assert (history.prompts, history.tokens_kept) == (0, 52)
    history.see_prompt(tokens(FIXED, [5, 6, 7]))
    assert (history.prompts, history.prefix_tokens) == (1, 50)
    # Not taken for a growing history, even where the other run's prompt comes back whole.
    again = PrefixHistory(like=like)
    again.see_prompt(like + tokens([3]))
    assert again.prefix_tokens == 52
    again.see_answer(like + tokens([3, 9]))
    assert again.prefix_tokens == 52


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=2, max_size=6))
def test_the_prefix_is_shared_by_the_last_two_prompts_or_is_the_whole_last_one(
    prompts: list[list[int]],
) -> None:
    history = PrefixHistory()
    for prompt in prompts:
        history.see_prompt(tokens(prompt))
    last, latest = tokens(prompts[-2]), tokens(prompts[-1])
    shared = counted(last, latest)
    grew = shared == len(last)
    assert history.prefix_tokens == (len(latest) if grew else shared)


def test_of_an_agent_that_begins_anew_all_of_the_last_prompt_may_come_back_instead() -> None:
    history = PrefixHistory()
    history.see_prompt(tokens(FIXED, [1]))
    assert history.other_tokens is None
    seen = []
    for rest in ([1, 2], [9], [9, 8]):  # it grows, begins anew, grows
        history.see_prompt(tokens(FIXED, rest))
        seen.append((history.prefix_tokens, history.other_tokens))
    fixed = len(FIXED)
    assert seen == [(fixed + 2, None), (fixed, fixed + 1), (fixed + 2, fixed)]


def test_growth_is_how_often_a_prompt_came_back_whole() -> None:
    history = PrefixHistory()
    for turn in range(40):
        history.see_prompt(tokens(FIXED, [turn]))
    assert history.growth(after_pause=False) == 0.0
    grown = tokens(FIXED)
    for turn in range(40):
        grown = grown + tokens([turn])
        history.see_prompt(grown)
    assert history.growth(after_pause=False) > 0.99


def test_growth_within_a_run_and_after_a_pause_are_two_things() -> None:
    history = PrefixHistory()
    for run in range(20):
        history.see_prompt(tokens(FIXED, [run]), after_pause=True)
        history.see_prompt(tokens(FIXED, [run, 1]))
    assert history.growth(after_pause=False) > 0.99
    assert history.growth(after_pause=True) < 0.01


def test_until_a_pause_has_shown_it_growth_is_as_within_a_run() -> None:
    assert PrefixHistory(grows=True).growth(after_pause=True) == 1.0
    assert PrefixHistory().growth(after_pause=True) == 0.0
