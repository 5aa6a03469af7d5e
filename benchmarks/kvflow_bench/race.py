"""The race test: early loads must not change an answer, however large and however many.

KV that is read before its copy is done gives wrong tokens. The same requests go to a server that
loads ahead in the largest pieces and to one that never does, and every greedy answer is compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kvflow_bench import protocol
from kvflow_bench.arms import Hints, ServerKind
from kvflow_bench.client import Answer, Client
from kvflow_bench.counters import KVFLOW, Counters
from kvflow_bench.workloads import Workload

PREFETCHING = ServerKind(
    "with",
    is_stock=False,
    has_host_tier=True,
    # Ahead by no more than a step: what is loaded sooner is there in time without a fence, too.
    config={"prefetch_steps": 1, "prefetch_agents": 64, "prefetch_tokens": 1_000_000},
)
REFERENCE = ServerKind(
    "without",
    is_stock=False,
    has_host_tier=True,
    config={"prefetch_steps": None, "waits_for_loads": False},
)
EARLY_LOADS = (f"{KVFLOW}prefetched_tokens", f"{KVFLOW}early_load_tokens")


@dataclass(frozen=True, slots=True)
class Difference:
    """One request that two servers answered differently."""

    request: int
    """Its number, in order of workflow and call."""
    token: int
    """The first token that differs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the race test has seen."""

    requests: int
    early_tokens: int
    """Loaded ahead of their request on the server under test; 0: nothing was tested."""
    differences: Sequence[Difference]
    own_differences: Sequence[Difference] | None
    """Of the reference from itself, if it ran twice: what differs without early loads."""

    @property
    def is_passed(self) -> bool:
        """Whether early loads took place and no answer differs."""
        return self.early_tokens > 0 and not self.differences

    def entry(self, switches: Mapping[str, Any]) -> dict[str, Any]:
        """As it stands in a document; `switches`: of the server under test (`instruments`)."""
        return {**asdict(self), "is_passed": self.is_passed, "switches": dict(switches)}


async def race(tested_url: str, reference_url: str, workload: Workload, *, twice: bool) -> Verdict:
    """Send the workload's requests to both servers, one after the other, and compare."""
    async with Client(tested_url) as tested, Client(reference_url) as reference:
        seen = await _run(tested, workload, Hints.EXACT, "with")
        # No answer depends on a hint, and any server will do as a reference: a stock one, too.
        expected = await _run(reference, workload, Hints.NONE, "without")
        again = await _run(reference, workload, Hints.NONE, "without-again") if twice else None
    return Verdict(
        requests=len(seen.answers),
        early_tokens=early_tokens(seen.counted),
        differences=differences(seen.answers, expected.answers),
        own_differences=None if again is None else differences(again.answers, expected.answers),
    )


def early_tokens(counted: Counters) -> int:
    """The tokens that were loaded ahead of their request."""
    return int(sum(counted.get(name, 0.0) for name in EARLY_LOADS))


def differences(seen: Sequence[Answer], expected: Sequence[Answer]) -> list[Difference]:
    """The requests whose answers differ; both in the same order."""
    found = []
    for request, (mine, theirs) in enumerate(zip(seen, expected, strict=True)):
        if list(mine.output) != list(theirs.output):
            pairs = zip(mine.output, theirs.output, strict=False)
            differing = (at for at, (one, other) in enumerate(pairs) if one != other)
            shorter = min(len(mine.output), len(theirs.output))
            found.append(Difference(request, next(differing, shorter)))
    return found


async def _run(client: Client, workload: Workload, hints: Hints, name: str) -> protocol.Run:
    return await protocol.run(client, workload, hints, name=f"race-{os.getpid()}/{name}")
