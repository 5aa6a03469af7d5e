"""One fault, how the traffic fared beside it, and what speaks against the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kvflow_faults.instruments import TABLE
from kvflow_faults.samples import FEWEST, Growth, Sample, growth, series
from kvflow_faults.tables import LIMITS

MEMORY = "memory "
LOADED_AHEAD = "prefetched_tokens"
# Tables that must be empty when nothing goes on.
EMPTY_WHEN_IDLE = ("load_tokens_under_way",)
# What is remembered of workflows and agents at most.
MOST = {"workflows": LIMITS["WorkflowMemory._live"], "agents": LIMITS["KnownWorkflow.agents"]}
# Of a process, for each message: what is kept of one takes more, be it no more than a name.
MOST_LEAKED_BYTES = 256
# What an allocator may keep besides.
SLACK_BYTES = 8 << 20


@dataclass(slots=True)
class Stage:
    """One fault, and how the traffic fared beside it."""

    fault: str
    answered: int
    wrong: int
    lost: int
    """Failed although the server was not dead."""
    outage: int
    """Failed with the server dead, and made again."""
    deaths: int
    """Of the server or one of its processes, other than by a kill."""
    seconds: float
    median_ms: float
    p99_ms: float
    injected: dict[str, int]
    resident_mib: dict[str, list[int]]
    """Of each process, over time."""
    free_host_tokens: list[int]
    """Room in the host tier, over time; a stock server does not tell."""
    loaded_ahead_tokens: int = 0
    """By kvflow, from the host tier."""
    growths: dict[str, Growth] = field(default_factory=dict)
    """Of a soak: of each process's memory in bytes, and of each table."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the scheduler counts at the end, the sizes of its tables included."""
    samples: list[str] = field(default_factory=list)
    """Of what went wrong, the first few."""

    def harms(self, control: Stage | None = None) -> Iterator[str]:
        """What speaks against the server, if anything.

        `control`: how a stock server fared beside the same fault; what it loses may be lost.
        """
        most_lost = 0 if control is None else control.lost
        if self.wrong:
            yield f"{self.wrong} wrong answers"
        if self.lost > most_lost:
            yield f"{self.lost} requests lost; by a stock server {most_lost}"
        if self.deaths:
            yield "it has ended of itself"
        for name in EMPTY_WHEN_IDLE:
            if self.counts.get(name):
                yield f"{self.counts[name]} {name} with nothing to do"
        for name, most in MOST.items():
            if self.counts.get(name, 0) > most:
                yield f"more than {most} {name}"
        yield from self._grown()

    @property
    def filling(self) -> list[str]:
        """Tables that were not full yet: the soak was too short to say what grows for ever."""
        return [
            name
            for name, most in LIMITS.items()
            if name in self.growths and self.growths[name].size and self.growths[name].after <= most
        ]

    def _grown(self) -> Iterator[str]:
        for name, most in LIMITS.items():
            if name in self.growths and self.growths[name].after > most:
                yield f"{name} has more than {most} entries"
        if self.filling:
            return
        messages = self.answered + sum(self.injected.values())
        most_bytes = SLACK_BYTES + MOST_LEAKED_BYTES * messages // 2
        for name, figure in self.growths.items():
            if name.startswith(MEMORY):
                if figure.size > most_bytes:
                    yield f"{name} grew by {figure.size} bytes, more than {most_bytes}"
            elif figure.size and name not in LIMITS:
                yield f"{name} grew from {figure.before} to {figure.after} entries"


def growths(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Of each process's memory and each table; nothing is known of too few samples."""
    names = sorted({name for sample in samples for name in sample})
    judged = [name for name in names if name.startswith((MEMORY, TABLE))]
    if len(samples) < FEWEST:
        return {}
    return {name.removeprefix(TABLE): growth(series(samples, name)) for name in judged}
