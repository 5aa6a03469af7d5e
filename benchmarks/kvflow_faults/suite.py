"""The suite: traffic whose answers are known, one fault after another beside it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from kvflow_faults import traffic
from kvflow_faults.answers import Questioner
from kvflow_faults.faults import FAULTS, FINITE, Fault, Scene, several_at_once
from kvflow_faults.victim import Victim

WORKFLOWS_AT_ONCE = 6
SAMPLE_S = 2.0
SETTLE_S = 60.0
MIB = 1 << 20
# Tables that must not grow, and those that must be empty when nothing goes on.
TABLES = ("workflows", "agents", "device_leaves", "host_leaves")
EMPTY_WHEN_IDLE = ("load_tokens_under_way",)
# What is remembered of workflows and agents at most (`foresight.Limits`).
MOST = {"workflows": 4096, "agents": 65_536}


@dataclass(slots=True)
class Stage:
    """One fault, and how the traffic fared beside it."""

    fault: str
    answered: int
    wrong: int
    lost: int
    outage: int
    deaths: int
    """Of the server or one of its processes, other than by a kill."""
    seconds: float
    median_ms: float
    p99_ms: float
    injected: dict[str, int]
    tables: dict[str, int]
    resident_mib: list[int]
    counts: dict[str, int] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        return not (self.wrong or self.lost or self.deaths or self.leftovers)

    @property
    def leftovers(self) -> list[str]:
        """Tables that are too large for a server with nothing to do."""
        return [
            *(name for name in EMPTY_WHEN_IDLE if self.counts.get(name)),
            *(name for name, most in MOST.items() if self.tables.get(name, 0) > most),
        ]


async def run(
    victim: Victim,
    known: Mapping[str, str],
    faults: list[str],
    *,
    requests: int,
    soak_s: float,
    seed: int,
    done: Callable[[Stage], None],
) -> list[Stage]:
    """One stage for each fault, `requests` over all of them, then a soak of all at once."""
    stages = []
    for number, name in enumerate(faults):
        share = requests // len(faults) + (number < requests % len(faults))
        random = Random(f"{seed}/{name}")
        stages.append(await _stage(victim, known, name, FAULTS[name], share, None, random))
        done(stages[-1])
    if soak_s:
        random = Random(f"{seed}/soak")
        stages.append(await _stage(victim, known, "soak", several_at_once, None, soak_s, random))
        done(stages[-1])
    return stages


async def _stage(
    victim: Victim,
    known: Mapping[str, str],
    name: str,
    fault: Fault | None,
    requests: int | None,
    seconds: float | None,
    random: Random,
) -> Stage:
    questioner = Questioner(victim, known)
    scene = Scene(victim, questioner, random, Counter())
    memory: list[int] = []
    lives, processes = victim.lives, victim.processes()
    began = time.monotonic()
    async with questioner.session:
        async with _beside(fault, scene, memory) as is_done:
            names = (f"{name}-{number}" for number in range(10**9))
            goes_on = _budget(requests, seconds, is_done)
            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKFLOWS_AT_ONCE):
                    workers.create_task(_work(questioner, names, goes_on, random))
        took_s = time.monotonic() - began
        counts = await _settled(questioner)
    tally = questioner.tally
    has_died = victim.lives == lives and not processes <= victim.processes()
    return Stage(
        fault=name,
        answered=tally.answered,
        wrong=tally.wrong,
        lost=tally.lost,
        outage=tally.outage,
        deaths=int(has_died or not counts),
        seconds=round(took_s, 1),
        median_ms=round(statistics.median(tally.latencies_s) * 1000, 1),
        p99_ms=round(sorted(tally.latencies_s)[len(tally.latencies_s) * 99 // 100] * 1000, 1),
        injected=dict(scene.injected),
        tables={table: counts.get(table, 0) for table in TABLES},
        resident_mib=memory,
        counts=counts,
        samples=tally.samples,
    )


def _budget(
    requests: int | None, seconds: float | None, is_done: Callable[[], bool]
) -> Callable[[], bool]:
    """Whether there is another request to be made: so many and until it is done, or for so long."""
    if requests is None:
        assert seconds is not None, "a stage has an end"
        end = time.monotonic() + seconds
        return lambda: time.monotonic() < end
    left = iter(range(requests))
    return lambda: next(left, None) is not None or not is_done()


async def _work(
    questioner: Questioner, names: Iterator[str], goes_on: Callable[[], bool], random: Random
) -> None:
    """One workflow after another, their calls in turn."""
    while True:
        workflow = next(names)
        for call in traffic.calls(workflow, random):
            if not goes_on():
                await questioner.tell(traffic.end(workflow))
                return
            await questioner.ask(call)
        await questioner.tell(traffic.end(workflow))
        await asyncio.sleep(random.random() * 0.3)


@asynccontextmanager
async def _beside(
    fault: Fault | None, scene: Scene, memory: list[int]
) -> AsyncIterator[Callable[[], bool]]:
    """The fault and the measuring of memory, as long as the traffic goes on.

    Gives whether a fault that ends of itself has ended.
    """
    measuring = asyncio.create_task(_measure(scene.victim, memory))
    injecting = None if fault is None else asyncio.create_task(fault(scene))
    try:
        yield lambda: fault not in FINITE or injecting is None or injecting.done()
        if injecting is not None and injecting.done():
            injecting.result()
    finally:
        for task in (measuring, injecting):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])


async def _measure(victim: Victim, memory: list[int]) -> None:
    while True:
        memory.append(victim.resident_bytes() // MIB)
        await asyncio.sleep(SAMPLE_S)


async def _settled(questioner: Questioner) -> dict[str, int]:
    """The counts of a server with nothing left to do; empty if it does not answer any more."""
    until = time.monotonic() + SETTLE_S
    counts: dict[str, int] = {}
    while time.monotonic() < until:
        try:
            counts = await questioner.status()
        except (OSError, TimeoutError, ValueError, KeyError):
            counts = {}
        if counts and not any(counts.get(name) for name in EMPTY_WHEN_IDLE):
            break
        await asyncio.sleep(0.5)
    return counts


def document(stages: list[Stage], about: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as JSON."""
    total = {
        name: sum(getattr(stage, name) for stage in stages)
        for name in ("answered", "wrong", "lost", "outage", "deaths")
    }
    return {**about, "total": total, "stages": [asdict(stage) for stage in stages]}
