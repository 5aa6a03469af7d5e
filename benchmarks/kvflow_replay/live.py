"""A trace against a server: prompts of made-up tokens that begin alike where the trace's did."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from kvflow_agents.hints import Hint
from kvflow_bench.client import Answer, Client, ServerCallError
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import Forecaster
from kvflow_replay.replay import NOBODY, agent_title

# Every vocabulary has them, and none of them is special.
TOKENS = range(10, 250)
# Calls beyond it wait: a client that falls behind has to end too.
MOST_AT_ONCE = 256
SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One call that was answered."""

    agent: tuple[str, str]
    answer: Answer


@dataclass(slots=True)
class LiveReplay:
    """What came of a trace on a server."""

    calls: int = 0
    hinted: int = 0
    late_s: float = 0.0
    """By how much calls were made late, at most, because too many were under way."""
    asked: list[Asked] = field(default_factory=list)
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """A call or a forecast was refused or dropped."""
        self.failed += 1
        if len(self.errors) < SHOWN_ERRORS:
            self.errors.append(str(error)[:200])


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

    The server's cache is taken as it is. What fails is counted.
    """
    done, forecaster = LiveReplay(), Forecaster()
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
            answer = await client.generate(prompt, max(1, call.output_tokens), hint)
            done.asked.append(Asked((call.app or "", call.agent or NOBODY), answer))

        for event in events:
            due_s = begun_s + (event.at_s - events[0].at_s) / speed
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await slots.acquire()
            done.late_s = max(done.late_s, time.monotonic() - due_s)
            hint = forecaster.end(event) if isinstance(event, End) else forecaster.call(event)
            hint = _sped_up(hint, speed) if is_hinted else None
            if isinstance(event, Call):
                done.calls += 1
                done.hinted += hint is not None
                tasks.create_task(make(partial(ask, event, hint)))
            elif hint is not None:
                tasks.create_task(make(partial(client.tell, hint)))
            else:
                slots.release()
    return done


def _sped_up(hint: Hint | None, speed: float) -> Hint | None:
    if hint is None or speed == 1:
        return hint
    due_ms = {agent: int(due / speed) for agent, due in hint.forecast.due_ms.items()}
    return replace(hint, forecast=replace(hint.forecast, due_ms=due_ms))


@dataclass(frozen=True, slots=True)
class LiveRow:
    """The figures of some calls."""

    name: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    host_tokens: int
    mean_latency_ms: float
    mean_first_token_ms: float

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / max(self.prompt_tokens, 1)


def rows(done: LiveReplay) -> list[LiveRow]:
    """All calls, then those of each agent."""
    by_agent: dict[tuple[str, str], list[Answer]] = {}
    for asked in done.asked:
        by_agent.setdefault(asked.agent, []).append(asked.answer)
    everything = [asked.answer for asked in done.asked]
    found = [_row("all", everything)] if everything else []
    return found + [
        _row(agent_title(app, name), answers) for (app, name), answers in by_agent.items()
    ]


def _row(name: str, answers: Sequence[Answer]) -> LiveRow:
    return LiveRow(
        name,
        len(answers),
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.cached_tokens for answer in answers),
        sum(answer.host_tokens for answer in answers),
        1000 * statistics.fmean(answer.latency_s for answer in answers),
        1000 * statistics.fmean(answer.first_token_s for answer in answers),
    )
