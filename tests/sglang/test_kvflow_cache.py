"""What the cache learns from requests, one by one, without a server."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.managers.schedule_batch import FINISH_ABORT

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang.compat.radix_cache import EvictParams, accesses
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache

FIXED = list(range(100, 140))


def hint(seq: int, workflow: str = "w") -> Hint:
    return Hint(workflow, Forecast(seq, {"a": 1}), agent="a")


def protected(cache: StandaloneCache) -> int:
    expected: int = cache.cache.status()["expected_device_tokens"]
    return expected


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_prompt_that_was_cached_before_is_learned_all_the_same(page_size: int) -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400, page_size=page_size)
    prompt = [*FIXED, 1, 2, 3]
    cache.run(prompt)
    assert protected(cache) == 0
    assert cache.run(prompt, hint=hint(0)) > 0
    assert protected(cache) == len(prompt) - len(prompt) % page_size


def test_a_request_aborted_in_its_prefill_teaches_nothing() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    cache.run([*FIXED, 1], hint=hint(0))
    cache.run([*FIXED, 2], hint=hint(1))
    assert protected(cache) == len(FIXED)
    prompt = array("q", [*FIXED, 3])
    aborted: Any = SimpleNamespace(
        sampling_params=SimpleNamespace(custom_params=encode_request(hint(2))),
        origin_input_ids=prompt,
        full_untruncated_fill_ids=prompt[:10],
        kv=SimpleNamespace(cache_inserted_len=10),
        last_node=next(iter(cache.cache.tree_core.root_node.children.values())).id,
        extra_key=None,
        cache_salt=None,
        finished_reason=None,
        to_finish=None,
        retracted_stain=False,
        finished=lambda: True,
    )
    cache.cache._learn(aborted, hint(2), 0)
    cache.run([*FIXED, 4], hint=hint(3))
    assert protected(cache) == len(FIXED)
    cache.cache.tenants.anonymous.foresight.check()


def test_the_token_that_stands_for_a_refused_prompt_teaches_nothing() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    cache.run([*FIXED, 1], hint=hint(0))
    cache.run([*FIXED, 2], hint=hint(1))
    refused = cache.arrive([*FIXED, 3], hint=hint(2))
    # As `Req.set_finish_with_abort` does.
    refused.origin_input_ids = array("q", [0])
    refused.to_finish = FINISH_ABORT("the prompt is too long")
    cache.serve(refused)
    assert protected(cache) == len(FIXED)
    cache.cache.tenants.anonymous.foresight.check()


def test_a_request_that_is_computed_again_after_a_retraction_counts_once() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    prompt = [*FIXED, 1]
    request = cache.arrive(prompt, hint=hint(0))
    cache._prefill(request, loads=True)
    # As `Req.reset_for_retract` does.
    cache.cache.unlock(request.lock)
    request.kv.cache_inserted_len = request.kv.cache_protected_len = 0
    request.retracted_stain = True
    cache.serve(request, [7, 8, 9])
    assert cache.cache.status()["shadow_requests"] == 1
    # Its prompt has not come back, so nothing says that its agent's history grows.
    assert protected(cache) == len(prompt)
    cache.cache.tenants.anonymous.foresight.check()


def test_kv_is_used_once_by_each_request_that_reads_it_and_by_no_lock() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400, host_ratio=4.0)
    fates: list[tuple[float, bool]] = []
    tree = cache.cache.tree_core
    tree.on_fate = lambda tenant, noted, since, was_used: fates.append(
        (noted.last_access, was_used)
    )
    cache.run(FIXED, [1, 2])  # its backup locks it
    cache.one_pass()
    assert fates == []
    (leaf,) = tree.evictable_device_leaves
    used_at = leaf.last_access_time
    for _ in range(3):  # as a request does that waits for room, pass by pass
        cache.cache.unlock(cache.cache.lock(cache.match([*FIXED, 1, 2]).last_device_node))
    assert fates == []
    cache.run([*FIXED, 1, 2, 3], [4])
    assert fates == [(used_at, True)]
    cache.evict(400)
    assert len(fates) > 1 and not any(was_used for _, was_used in fates[1:])


def test_what_an_eviction_leaves_is_a_leaf_only_since_then() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    tree = cache.cache.tree_core
    fates: list[tuple[float, float]] = []
    tree.on_fate = lambda tenant, noted, since, was_used: fates.append((noted.last_access, since))
    cache.run(FIXED, [1, 2])  # its answer is a node of its own
    cache.run(list(range(200, 240)))  # time passes
    cache.evict(400)
    (answer_access, answer_since), (prompt_access, prompt_since), *_ = fates
    assert answer_since - answer_access < prompt_since - prompt_access
    assert prompt_since >= accesses() - 1
    assert not tree._leaf_since


def test_what_comes_back_from_the_host_ends_the_rest_of_what_it_follows() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400, host_ratio=4.0)
    tree = cache.cache.tree_core
    answer = list(range(1, 21))
    cache.run(FIXED, answer)
    cache.one_pass()  # backed up
    cache.evict(len(answer))
    (prompt,) = tree.evictable_device_leaves
    began = tree._leaf_since[prompt.id]
    other = list(range(200, 240))
    cache.run(other)
    cache.one_pass()
    assert cache.run([*FIXED, *answer, 0]) == len(FIXED) + len(answer)
    cache.one_pass()
    came_back = accesses()
    cache.evict(len(other) + len(answer) + 1)
    assert tree._leaf_since[prompt.id] >= came_back > began


def test_who_says_when_it_is_enough_is_asked_after_each_victim() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    for first in (100, 200, 300):
        cache.run(range(first, first + 40))
    free_tokens = cache.allocator.available_size()
    result = cache.cache.evict_for_alloc(
        EvictParams(num_tokens=120),
        allocation_reclaim_satisfied=lambda: cache.allocator.available_size() > free_tokens,
    )
    assert result.num_tokens_evicted == cache.allocator.available_size() - free_tokens == 40


def test_kv_that_is_switched_off_is_kept_by_recency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"kv": false}')
    cache = StandaloneCache("kvflow", pool_tokens=100)
    other = list(range(200, 240))
    cache.run([*FIXED, 1], hint=hint(0))
    cache.run([*FIXED, 2], hint=hint(1))
    assert protected(cache) == cache.cache.status()["agents"] == 0
    cache.run(other)
    cache.run(list(range(300, 340)))
    # The oldest went, whoever expects it; what was said of its agent is known all the same.
    assert cache.run([*FIXED, 3]) == 0
    assert cache.cache.status()["workflows"] == 1


def test_after_a_flush_the_shadow_is_as_empty_as_the_cache_and_forecasts_count() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=400)
    cache.run([*FIXED, 1], hint=hint(0))
    assert cache.cache.status()["shadow_requests"] == 1
    cache.cache.tenants.anonymous.guard.heeds = False
    cache.cache.tenants.anonymous.foresight.heed(False)
    cache.allocator.clear()
    cache.cache.reset()
    assert "shadow_requests" not in cache.cache.status()
    assert cache.cache.tenants.anonymous.guard.heeds
    assert cache.cache.tenants.anonymous.foresight.is_trusted("w")
    assert cache.run([*FIXED, 1], hint=hint(1)) == 0
    assert cache.cache.status()["shadow_lru"] == 0
