"""A trace against a server: prompts of made-up tokens that begin alike where the trace's did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from kvflow_agents.hints import Hint
from kvflow_bench.client import Client, ServerCallError
from kvflow_replay.answers import Asked, LiveReplay
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import RecordedForecaster
from kvflow_replay.replay import NOBODY

# Every vocabulary has them, and none of them is special.
TOKENS = range(10, 250)
# Calls beyond it wait: a client that falls behind has to end too.
MOST_AT_ONCE = 256


def prompt_of(call: Call, block_tokens: int) -> list[int]:
    """The call's prompt: equal blocks give equal tokens."""
    tokens: list[int] = []
    for block in call.blocks:
        tokens += random.Random(block).choices(TOKENS, k=block_tokens)
    return tokens[: call.prompt_tokens]


async def replay_live(
    events: Sequence[Event],
    base_url: str,
    block_tokens: int,
    *,
    is_hinted: bool = True,
    speed: float = 1.0,
    progress: Callable[[], None] = lambda: None,
) -> LiveReplay:
    """Make the calls of a trace when the trace says, `speed` times as fast, whatever the answers.

    A call of which the trace says how long after an answer it was made waits for that answer.
    The server's cache is taken as it is. What fails is counted.
    """
    done, forecaster = LiveReplay(), RecordedForecaster()
    slots = asyncio.Semaphore(MOST_AT_ONCE)
    begun_s = time.monotonic()
    async with Client(base_url) as client, asyncio.TaskGroup() as tasks:

        async def make(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            # A server that is not SGLang may answer anything.
            except (ServerCallError, ValueError, LookupError, TypeError) as error:
                done.fail(error)
            finally:
                slots.release()
                progress()

        async def ask(call: Call, hint: Hint | None) -> None:
            prompt = prompt_of(call, block_tokens)
            try:
                answer = await client.generate(prompt, max(1, call.output_tokens), hint)
            finally:
                ended_s[call.workflow] = time.monotonic()
            done.asked.append(Asked((call.app or "", call.agent or NOBODY), answer))

        async def begin(event: Event, due_s: float) -> asyncio.Task[None]:
            await slots.acquire()
            done.late_s = max(done.late_s, time.monotonic() - due_s)
            hint = forecaster.end(event) if isinstance(event, End) else forecaster.call(event)
            hint = _sped_up(hint, speed) if is_hinted else None
            if isinstance(event, End):
                said = partial(client.tell, hint) if hint is not None else partial(asyncio.sleep, 0)
                return tasks.create_task(make(said))
            done.calls += 1
            done.hinted += hint is not None
            return tasks.create_task(make(partial(ask, event, hint)))

        async def follow(call: Call, before: asyncio.Task[None], delay_s: float) -> None:
            await asyncio.wait([before])
            due_s = ended_s[call.workflow] + delay_s / speed
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            # The trace's time of this call was derived; this is when it is made.
            at_s = events[0].at_s + (time.monotonic() - begun_s) * speed
            await (await begin(replace(call, at_s=at_s), due_s))

        last: dict[str, asyncio.Task[None]] = {}
        ended_s: dict[str | None, float] = {}
        for event in events:
            due_s = begun_s + (event.at_s - events[0].at_s) / speed
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            before = last.get(event.workflow or "")
            if isinstance(event, Call) and event.delay_s is not None and before is not None:
                task = tasks.create_task(follow(event, before, event.delay_s))
            else:
                task = await begin(event, due_s)
            if isinstance(event, Call) and event.workflow is not None:
                last[event.workflow] = task
    return done


def _sped_up(hint: Hint | None, speed: float) -> Hint | None:
    if hint is None or speed == 1:
        return hint
    due_ms = {agent: int(due / speed) for agent, due in hint.forecast.due_ms.items()}
    return hint._replace(forecast=hint.forecast._replace(due_ms=due_ms))
