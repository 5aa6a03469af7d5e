"""The faults: each goes on beside the traffic until it is cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp

from kvflow_faults import misuse, traffic
from kvflow_faults.answers import Questioner
from kvflow_faults.traffic import Call
from kvflow_faults.victim import Victim

HOUR_MS = 3_600_000
CLOCKS_MS = (HOUR_MS, -HOUR_MS, 24 * 365 * HOUR_MS, 0, -24 * HOUR_MS)
FLOODERS = 8
# Faults come without an end, but not so fast that nothing else is served.
PAUSE_S = 0.2
# Long enough that the traffic is at work again, and prefixes are being loaded ahead.
CALM_BEFORE_KILL_S = 3.0
KILLS = 1
# What a server remembers of forecasts is then as much as it ever will be: a million agents.
FILLING_FORECASTS = 1_500


@dataclass
class Scene:
    """What faults happen to, and how often they did."""

    victim: Victim
    questioner: Questioner
    random: Random
    injected: Counter[str]

    def call(self) -> Call:
        """A request from a workflow of its own, which is never told to have ended."""
        workflow = f"stray-{self.random.randrange(10**9)}"
        return next(traffic.calls(workflow, self.random))


Fault = Callable[[Scene], Coroutine[Any, Any, None]]


async def hang_ups(scene: Scene) -> None:
    await _repeat(
        scene, "hang-up", lambda: misuse.hang_up(scene.victim, scene.call(), scene.random)
    )


async def aborted_streams(scene: Scene) -> None:
    await _repeat(
        scene,
        "aborted stream",
        lambda: misuse.abort_stream(scene.victim, scene.call(), scene.random),
    )


async def slow_clients(scene: Scene) -> None:
    await _repeat(
        scene,
        "slow client",
        lambda: misuse.be_slow(scene.victim, scene.call(), scene.questioner),
        is_answered=True,
    )


async def hint_floods(scene: Scene) -> None:
    def flood() -> Awaitable[None]:
        return misuse.flood(scene.victim, scene.random)

    await asyncio.gather(
        *(_repeat(scene, "flooding forecast", flood, pause_s=0.05) for _ in range(FLOODERS))
    )


async def fill(scene: Scene) -> None:
    """Flood until the tables of forecasts are full."""
    flooding = asyncio.create_task(hint_floods(scene))
    while scene.injected["flooding forecast"] < FILLING_FORECASTS and not scene.victim.has_died:
        await asyncio.wait([flooding], timeout=PAUSE_S)
    flooding.cancel()
    await asyncio.wait([flooding])


async def full_host_tier(scene: Scene) -> None:
    """Strangers push their KV into both tiers, so that loads ahead are from a tier without room."""
    await _repeat(
        scene, "stranger", lambda: misuse.be_strange(scene.victim, scene.random), pause_s=0.05
    )


async def flushes(scene: Scene) -> None:
    async def flush() -> None:
        scene.injected["flush done" if await misuse.flush(scene.victim) else "flush refused"] += 1

    await _repeat(scene, "flush", flush, pause_s=0.05)


async def clock_jumps(scene: Scene) -> None:
    async def jump() -> None:
        scene.victim.switch(clock_ms=scene.random.choice(CLOCKS_MS))

    try:
        await _repeat(scene, "clock jump", jump, pause_s=0.5)
    finally:
        scene.victim.switch()


async def kills(scene: Scene) -> None:
    await _kill(scene, "kill", scene.victim.kill_and_restart)


async def kills_in_prefetch(scene: Scene) -> None:
    await _kill(scene, "kill in prefetch", scene.victim.kill_in_prefetch_and_restart)


async def several_at_once(scene: Scene) -> None:
    """All that a server lives through, at once."""
    faults = (hang_ups, aborted_streams, slow_clients, hint_floods, flushes, clock_jumps)
    await asyncio.gather(*(fault(scene) for fault in faults))


async def _kill(scene: Scene, name: str, kill: Callable[[], Awaitable[None]]) -> None:
    """Some times, under load."""
    for _ in range(KILLS):
        await asyncio.sleep(CALM_BEFORE_KILL_S)
        await kill()
        scene.injected[name] += 1


async def _repeat(
    scene: Scene,
    name: str,
    inject: Callable[[], Awaitable[None]],
    *,
    pause_s: float = PAUSE_S,
    is_answered: bool = False,
) -> None:
    while True:
        try:
            await inject()
            scene.injected[name] += 1
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if is_answered:
                scene.questioner.tally.lost += 1
                scene.questioner.tally.note(f"{name}: {error!r}")
        await asyncio.sleep(pause_s)


# These come to an end of their own, and the traffic goes on until then.
FINITE = (kills, kills_in_prefetch)

FAULTS: dict[str, Fault | None] = {
    "none": None,
    "hang-ups": hang_ups,
    "aborted-streams": aborted_streams,
    "slow-clients": slow_clients,
    "hint-floods": hint_floods,
    "flushes": flushes,
    "clock-jumps": clock_jumps,
    "kills-in-prefetch": kills_in_prefetch,
    "kills": kills,
    "several-at-once": several_at_once,
    "full-host-tier": full_host_tier,
}
"""The traffic alone comes first: what follows is measured against it."""
