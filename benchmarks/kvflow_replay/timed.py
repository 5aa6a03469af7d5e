"""A trace in the simulated engine: what its calls cost under each policy, in time too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kvflow_agents.errors import ConfigurationError
from kvflow_agents.prefetch import PIECE_TOKENS
from kvflow_replay.calls import Call, Event
from kvflow_replay.forecasts import Forecaster
from kvflow_replay.replay import HOST_POOLS, sizes_for
from kvflow_replay.trace_traffic import TraceTraffic
from kvflow_simulate.clairvoyant import Future
from kvflow_simulate.machine import Machine
from kvflow_simulate.sides import CEILING, Side, clairvoyant
from kvflow_simulate.simulate import (
    Outcome,
    Sizes,
    counts_of,
    engine_for,
    figures,
    future_of,
    with_ratios,
)

# What a trace has no use for: adapters, and how long the simulator took.
LEFT_OUT = ("workload", "adapter", "cpu_s")


@dataclass(frozen=True, slots=True)
class Timetable:
    """The part of a trace that fits in the pool, and how it is sent."""

    events: Sequence[Event]
    """In the order of time."""
    block_tokens: int
    speed: float = 1.0
    is_hinted: bool = True

    @property
    def calls(self) -> list[Call]:
        return [event for event in self.events if isinstance(event, Call)]


@dataclass(frozen=True, slots=True)
class TimedReplay:
    """What came of a trace on a machine: the figures of `kvflow simulate`, by policy."""

    machine: Machine
    sizes: Sizes
    speed: float
    calls: int
    too_large: int
    """Calls that do not fit in the pool: left out for every policy."""
    hinted: int
    trace_s: float
    """From the first event to the last one, as the trace has it."""
    rows: list[dict[str, Any]]


def pools_for(
    calls: Sequence[Call], block_tokens: int, pool_tokens: int | None, host_tokens: int | None
) -> Sizes:
    """Pools as asked for, else those of a replay without time."""
    if pool_tokens is None:
        pool_tokens = sizes_for(calls, block_tokens, None, None).device_blocks * block_tokens
    return Sizes(pool_tokens, HOST_POOLS * pool_tokens if host_tokens is None else host_tokens)


def replay_timed(
    trace: Timetable,
    sides: Sequence[Side],
    machine: Machine,
    sizes: Sizes,
    *,
    progress: Callable[[], None] = lambda: None,
) -> TimedReplay:
    """Replay a trace on a machine under each policy, after a run in which everything fits.

    ConfigurationError if no call fits, or the speed is none. Deterministic.
    """
    if not trace.speed > 0:
        raise ConfigurationError("the speed must be more than 0")
    events = [event for event in trace.events if not _is_too_large(event, sizes.pool_tokens)]
    fitting = replace(trace, events=events)
    calls = fitting.calls
    if not calls:
        raise ConfigurationError("no call of the trace fits in the pool")
    ceiling = run(fitting, CEILING, machine, sizes, progress=progress)
    foresees = any(side.knows_the_future for side in sides)
    future = future_of(ceiling) if foresees else None
    rows = [figures(ceiling)]
    # It holds all prompts: no two outcomes at a time.
    del ceiling
    for side in sides:
        rows.append(figures(run(fitting, side, machine, sizes, future, progress=progress)))
    return TimedReplay(
        machine,
        sizes,
        trace.speed,
        len(calls),
        len(trace.events) - len(events),
        sum(call.workflow is not None for call in calls) if trace.is_hinted else 0,
        events[-1].at_s - events[0].at_s,
        [_reported(row) for row in with_ratios(rows)],
    )


def run(
    trace: Timetable,
    side: Side,
    machine: Machine,
    sizes: Sizes,
    future: Future | None = None,
    *,
    progress: Callable[[], None] = lambda: None,
) -> Outcome:
    """A trace under one policy, from an empty cache."""
    if side.fits_everything:
        tokens = sum(call.prompt_tokens + call.output_tokens for call in trace.calls)
        sizes = replace(sizes, pool_tokens=tokens)
    if side.knows_the_future:
        # As loads ahead do. Cut anywhere, what agents share falls into more and more nodes, and
        # calls cost the simulator more and more.
        side = replace(side, make=partial(clairvoyant, piece_tokens=PIECE_TOKENS))
    engine = engine_for(side, machine, sizes, future)
    traffic = TraceTraffic(
        trace.events,
        trace.block_tokens,
        clock=lambda: engine.now_s,
        forecaster=Forecaster() if side.is_hinted and trace.is_hinted else None,
        speed=trace.speed,
        progress=progress,
    )
    served = tuple(engine.run(traffic))
    # An end may be said long after the last answer.
    return Outcome("trace", side.name, served, (), served[-1].ended_s, counts_of(engine))


def _is_too_large(event: Event, pool_tokens: int) -> bool:
    """Whether a call does not fit; the last token of its answer is not cached."""
    if not isinstance(event, Call):
        return False
    return event.prompt_tokens + max(event.output_tokens - 1, 0) > pool_tokens


def _reported(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(LEFT_OUT)}
