"""The suite: traffic whose answers are known, one fault after another beside it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

from kvflow_faults import traffic
from kvflow_faults.answers import Questioner, VictimDiedError
from kvflow_faults.faults import FAULTS, FINITE, Fault, Scene, fill, several_at_once
from kvflow_faults.instruments import FREE_HOST_TOKENS
from kvflow_faults.misuse import flush
from kvflow_faults.samples import Sample, counted, series
from kvflow_faults.stage import EMPTY_WHEN_IDLE, LOADED_AHEAD, MEMORY, Stage, growths
from kvflow_faults.victim import Victim

WORKFLOWS_AT_ONCE = 4
SAMPLE_S = 3.0
MOST_SAMPLES = 60
SETTLE_S = 60.0
SETTLE_POLL_S = 0.5
MIB = 1 << 20


async def run(
    victim: Victim,
    known: Mapping[str, str],
    *,
    chosen: Sequence[str],
    requests: int,
    seed: int,
    done: Callable[[Stage], None],
) -> None:
    """One stage for each fault, `requests` over all of them; the same for every server."""
    for number, name in enumerate(chosen):
        await _begin(victim)
        share = requests // len(chosen) + (number < requests % len(chosen))
        scene = _scene(victim, known, f"{seed}/{name}")
        done(await _stage(name, scene, FAULTS[name], _so_many(share)))


async def soak(victim: Victim, known: Mapping[str, str], *, seconds: float, seed: int) -> Stage:
    """All that a server lives through at once, from full tables on; and what grows meanwhile."""
    await _begin(victim)
    scene = _scene(victim, known, f"{seed}/soak")
    await fill(scene)
    every_s = max(SAMPLE_S, seconds / MOST_SAMPLES)
    return await _stage("soak", scene, several_at_once, _so_long(seconds), every_s, is_soak=True)


async def _begin(victim: Victim) -> None:
    """Live, with an empty cache and no doubts about forecasts from the stage before."""
    await victim.live()
    until = time.monotonic() + SETTLE_S
    while not await flush(victim) and time.monotonic() < until:
        await asyncio.sleep(SETTLE_POLL_S)


def _scene(victim: Victim, known: Mapping[str, str], seed: str) -> Scene:
    return Scene(victim, Questioner(victim, known), Random(seed), Counter())


def _so_many(requests: int) -> Callable[[], bool]:
    left = iter(range(requests))
    return lambda: next(left, None) is not None


def _so_long(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


async def _stage(
    name: str,
    scene: Scene,
    fault: Fault | None,
    has_more: Callable[[], bool],
    every_s: float = SAMPLE_S,
    *,
    is_soak: bool = False,
) -> Stage:
    """Traffic while `has_more`, and until a fault that ends of itself has ended."""
    victim, questioner = scene.victim, scene.questioner
    samples: list[Sample] = []
    lives, processes = victim.lives, victim.processes()
    began = time.monotonic()
    async with questioner.session:
        try:
            async with _beside(fault, scene, samples, every_s) as is_done:
                names = (f"{name}-{number}" for number in range(10**9))
                async with asyncio.TaskGroup() as workers:
                    for _ in range(WORKFLOWS_AT_ONCE):
                        goes_on = lambda: has_more() or not is_done()  # noqa: E731
                        workers.create_task(_work(questioner, names, goes_on, scene.random))
        except* VictimDiedError:
            questioner.tally.samples.append(victim.log_tail())
        took_s = time.monotonic() - began
        counts = await _settled(questioner)
    tally = questioner.tally
    latencies_ms = [1000 * latency_s for latency_s in sorted(tally.latencies_s)] or [0.0]
    has_died = victim.has_died or (victim.lives == lives and not processes <= victim.processes())
    return Stage(
        fault=name,
        answered=tally.answered,
        wrong=tally.wrong,
        lost=tally.lost,
        outage=tally.outage,
        deaths=int(has_died or not (counts or victim.is_stock)),
        seconds=round(took_s, 1),
        median_ms=round(statistics.median(latencies_ms), 1),
        p99_ms=round(latencies_ms[len(latencies_ms) * 99 // 100], 1),
        injected=dict(scene.injected),
        resident_mib=_resident_mib(samples),
        free_host_tokens=[] if victim.is_stock else series(samples, FREE_HOST_TOKENS),
        loaded_ahead_tokens=counted([*series(samples, LOADED_AHEAD), counts.get(LOADED_AHEAD, 0)]),
        growths=growths(samples) if is_soak else {},
        counts=counts,
        samples=tally.samples,
    )


async def _work(
    questioner: Questioner, names: Iterator[str], goes_on: Callable[[], bool], random: Random
) -> None:
    """One workflow after another, their calls in turn."""
    while True:
        workflow = next(names)
        for call in traffic.calls(workflow, random):
            if not goes_on():
                await questioner.tell(traffic.end(workflow), traffic.salt_of(workflow))
                return
            await questioner.ask(call)
        await questioner.tell(traffic.end(workflow), traffic.salt_of(workflow))
        await asyncio.sleep(random.random() * 0.3)


@asynccontextmanager
async def _beside(
    fault: Fault | None, scene: Scene, samples: list[Sample], every_s: float
) -> AsyncIterator[Callable[[], bool]]:
    """The fault and the measuring, as long as the traffic goes on.

    Gives whether a fault that ends of itself has ended.
    """
    measuring = asyncio.create_task(_measure(scene, samples, every_s))
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


async def _measure(scene: Scene, samples: list[Sample], every_s: float) -> None:
    victim = scene.victim
    while True:
        counts = await scene.questioner.status()
        if counts or victim.is_stock:  # a sample without tables would look as if they were empty
            memory = victim.resident_bytes().items()
            samples.append({**counts, **{f"{MEMORY}{name}": size for name, size in memory}})
        await asyncio.sleep(every_s)


def _resident_mib(samples: Sequence[Sample]) -> dict[str, list[int]]:
    names = sorted({name for sample in samples for name in sample if name.startswith(MEMORY)})
    return {
        name.removeprefix(MEMORY): [size // MIB for size in series(samples, name)] for name in names
    }


async def _settled(questioner: Questioner) -> dict[str, int]:
    """The counts of a server with nothing left to do; empty if it does not tell any."""
    until = time.monotonic() + SETTLE_S
    while True:
        counts = await questioner.status()
        is_idle = not any(counts.get(name) for name in EMPTY_WHEN_IDLE)
        if is_idle or time.monotonic() > until:
            return counts
        await asyncio.sleep(SETTLE_POLL_S)
