"""What is copied to the host tier: all but KV that nobody will ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.compat import copies
from kvflow_sglang.compat.copies import MHATokenToKVPoolHost
from kvflow_sglang.standalone import StandaloneCache

PREFIX = list(range(1000, 1300))
ANSWER = [7, 8, 9]


def hint(seq: int, workflow: str = "w") -> Hint:
    return Hint(workflow, Forecast(seq, {"a": 1, "b": 0}), agent="a")


@pytest.fixture
def cache() -> StandaloneCache:
    return StandaloneCache("kvflow", pool_tokens=2000, host_ratio=4.0)


def host_tokens(cache: StandaloneCache) -> int:
    cache.one_pass()
    cache.cache.tenants.anonymous.foresight.check()
    pool = cache.cache.cache_controller.mem_pool_host
    used: int = pool.size - pool.available_size()
    return used


def test_the_rest_of_a_prompt_and_its_answer_are_not_backed_up(cache: StandaloneCache) -> None:
    cache.run([*PREFIX, 1], ANSWER, hint=hint(0))
    # Nothing else is known of the agent: the whole prompt may come back.
    assert host_tokens(cache) == len(PREFIX) + 1
    cache.run([*PREFIX, 2, 3, 4], ANSWER, hint=hint(1))
    assert host_tokens(cache) == len(PREFIX) + 1


def test_unhinted_requests_are_backed_up_whole(cache: StandaloneCache) -> None:
    cache.run([*PREFIX, 1], ANSWER)
    cache.run([*PREFIX, 2], ANSWER)
    assert host_tokens(cache) == len(PREFIX) + 2 * (1 + len(ANSWER))


def test_a_growing_history_is_backed_up_with_its_answers(cache: StandaloneCache) -> None:
    cache.run([*PREFIX, 1], ANSWER, hint=hint(0))
    second = [*PREFIX, 1, *ANSWER, 2]
    cache.run(second, ANSWER, hint=hint(1))
    assert host_tokens(cache) == len(second) + len(ANSWER)


def test_what_somebody_else_uses_is_backed_up_then(cache: StandaloneCache) -> None:
    cache.run([*PREFIX, 1], ANSWER, hint=hint(0))
    cache.run([*PREFIX, 2], ANSWER, hint=hint(1))
    before = host_tokens(cache)
    cache.run([*PREFIX, 2, *ANSWER])
    assert host_tokens(cache) == before + 1 + len(ANSWER)


def test_a_workflow_that_is_not_believed_is_backed_up_like_any_other(
    cache: StandaloneCache,
) -> None:
    for seq in range(5):
        cache.run([*PREFIX, seq], ANSWER, hint=Hint("w", Forecast(seq, {"a": None}), agent="a"))
    assert not cache.cache.tenants.anonymous.foresight.is_trusted("w")
    before = host_tokens(cache)
    last = Hint("w", Forecast(9, {"a": None}), agent="a")
    cache.run([*PREFIX, 99], ANSWER, hint=last)
    assert host_tokens(cache) == before + 1 + len(ANSWER)


@pytest.mark.parametrize(("page_size", "in_one_launch"), [(1, True), (64, False)])
def test_backups_of_small_pages_are_one_launch(page_size: int, in_one_launch: bool) -> None:
    pool: Any = object.__new__(MHATokenToKVPoolHost)
    pool.page_size, pool.layout_dim, pool.can_use_write_back_jit = page_size, 65_536, True
    refreshed: list[bool] = []
    group = SimpleNamespace(
        anchor_entry=SimpleNamespace(host_pool=pool),
        _refresh_transfer_capabilities=lambda: refreshed.append(pool.can_use_write_back_jit),
    )
    copies.back_up_in_one_launch(SimpleNamespace(mem_pool_host=group))
    assert refreshed == ([False] if in_one_launch else [])
