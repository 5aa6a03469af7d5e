"""The simulated cache finds what SGLang's real one finds: same requests in, same tokens cached."""

from __future__ import annotations

from itertools import islice

import pytest

from kvflow_agents.hints import Hint
from kvflow_bench.workloads import Parameters, Workload
from kvflow_sglang import settings
from kvflow_sglang.standalone import Core, StandaloneCache
from kvflow_simulate.engine import Engine
from kvflow_simulate.machine import Machine
from kvflow_simulate.policies import Policy, Recency
from kvflow_simulate.requests import Request, Traffic
from kvflow_simulate.sides import SIDES
from kvflow_simulate.traffic import WorkloadTraffic
from kvflow_simulate.tree import PrefixTree

# Everybody calls in turn here, as in the cache without a server, and idle in between.
MACHINE = Machine(
    prefill_fixed_s=1.0,
    prefill_tokens_per_s=1e9,
    decode_fixed_s=1.0,
    overhead_s=1.0,
    most_running=1,
)
POOL_TOKENS = 620
WORKLOADS = (
    Workload("cycle", "cycle", Parameters(agents=8, fixed_tokens=120, output_tokens=8, rounds=16)),
    Workload(
        "two",
        "cycle",
        Parameters(
            workflows=2, agents=5, fixed_tokens=90, dynamic_tokens=20, output_tokens=8, rounds=14
        ),
    ),
    Workload(
        "branch",
        "branch",
        Parameters(agents=5, shared_tokens=60, fixed_tokens=120, output_tokens=8, rounds=20),
    ),
    Workload(
        "growing", "growing", Parameters(agents=6, fixed_tokens=60, output_tokens=8, rounds=12)
    ),
)


class Replay(Traffic):
    """Requests one after another, whatever they wait for."""

    def __init__(self, requests: list[Request]) -> None:
        self._left = iter(requests)

    def first(self) -> list[Request]:
        return list(islice(self._left, 1))

    def answered(self, request: Request) -> list[Request]:
        return self.first()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize(
    ("policy", "core", "host_ratio"),
    [
        ("lru", "python", None),
        ("hicache", "python", 4.0),
        ("hicache", "python", 1.5),
        ("ours-device", "kvflow", None),
        ("ours", "kvflow", 4.0),
        ("ours", "kvflow", 1.5),
        ("ours-noprefetch", "kvflow", 4.0),
        ("ours-noprefetch", "kvflow", 1.5),
    ],
)
def test_as_many_tokens_are_cached(
    workload: Workload,
    policy: str,
    core: Core,
    host_ratio: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if policy == "ours-noprefetch":
        monkeypatch.setenv(settings.VARIABLE, '{"prefetch_steps": null}')
    real, simulated = cached_tokens(workload, policy, core, host_ratio)
    assert sum(simulated) == pytest.approx(sum(real), rel=0.02)


def cached_tokens(
    workload: Workload, policy: str, core: Core, host_ratio: float | None
) -> tuple[list[int], list[int]]:
    """The cached tokens of each request in the real cache and in the simulated one."""
    requests = _requests(workload)
    host_tokens = 0 if host_ratio is None else int(host_ratio * POOL_TOKENS)
    arrivals_s: list[float] = []

    def make(tree: PrefixTree) -> Policy:
        made = SIDES[policy].make(tree, None)
        hear = made.arrived

        def arrived(request: Request, now_s: float) -> None:
            arrivals_s.append(now_s)
            hear(request, now_s)

        made.arrived = arrived  # type: ignore[method-assign]
        return made

    engine = Engine(MACHINE, pool_tokens=POOL_TOKENS, host_tokens=host_tokens, policy=make)
    served = engine.run(Replay(requests))
    cache = StandaloneCache(core, pool_tokens=POOL_TOKENS, host_ratio=host_ratio)
    real = []
    for request, now_s in zip(requests, arrivals_s, strict=True):
        real.append(cache.run(request.prompt, request.answer, hint=_stamped(request.hint, now_s)))
        prefetcher = getattr(cache.cache, "prefetcher", None)
        while prefetcher is not None and prefetcher.tokens_under_way:
            cache.one_pass()
    return real, [len(call.request.prompt) - call.computed_tokens for call in served]


def _stamped(hint: Hint | None, now_s: float) -> Hint | None:
    return None if hint is None else hint._replace(at_ms=int(1000 * now_s))


def _requests(workload: Workload) -> list[Request]:
    """In the order in which they leave where everything fits."""
    traffic = WorkloadTraffic(workload, hints="exact")
    engine = Engine(MACHINE, pool_tokens=workload.footprint_tokens(), host_tokens=0, policy=Recency)
    warm_up = engine.run(traffic)
    traffic.count()
    return [call.request for call in (*warm_up, *engine.run(traffic))]
