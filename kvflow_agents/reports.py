"""What the cache did, agent by agent, as this process has seen it (docs/report.md)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from kvflow_agents import pseudonyms, routers
from kvflow_agents.call_records import AgentCalls, CallRecords, Usage, call_records
from kvflow_agents.receipt_reader import read_receipts
from kvflow_agents.report_table import rich_table, text_table

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Times:
    """Of the last calls, in seconds; the mean of a latency is that of all calls."""

    mean_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, slots=True)
class ForecastError:
    """What was forecast before each call against what came.

    `mean_abs_s` and `mean_late_s` are of the `timed` calls for which a time was told; late is
    above 0 if calls came after it.
    """

    right: int
    wrong: int
    timed: int
    mean_abs_s: float | None
    mean_late_s: float | None


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One agent's calls, over all workflows of one app."""

    agent: str
    app: str | None
    calls: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    hit_rate: float | None
    """Cached tokens of prompt tokens, where the server says what was cached."""
    latency: Times | None
    first_token: Times | None
    """Of streams."""
    forecast: ForecastError
    usages: tuple[Usage, ...]
    """Of the last calls, in the order in which they ended."""
    receipts: Mapping[str, int] | None = None
    """What the servers have counted (docs/receipts.md); None if not asked for or not known."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every agent that has called; `str` is a table, and so is what rich prints."""

    agents: tuple[AgentReport, ...]
    notes: tuple[str, ...] = ()
    """What is missing from it, and why."""

    def __getitem__(self, agent: str) -> AgentReport:
        """The agent of this name that called last; KeyError if none has."""
        for each in reversed(self.agents):
            if each.agent == agent:
                return each
        raise KeyError(agent)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: lists, dicts, numbers, text and None."""
        return {
            "agents": [
                {**asdict(each), "usages": [usage._asdict() for usage in each.usages]}
                for each in self.agents
            ],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as a text."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        return text_table(self.agents, self.notes)

    def __rich__(self) -> Table:
        return rich_table(self.agents, self.notes)


def report(
    *, receipts: bool = False, timeout_s: float = 2.0, records: CallRecords = call_records
) -> Report:
    """What this process has seen so far; with `receipts`, the servers' own counts besides.

    They are asked at most `timeout_s` long; what they do not tell is in the notes.
    """
    kept = records.agents()
    if not receipts:
        return Report(tuple(_agent(app, agent, calls, None) for app, agent, calls in kept))
    names, reached = pseudonyms.from_environment(), routers.from_environment().reached
    seen = [
        (names.of(workflow), app, tuple(chain.from_iterable(map(reached, servers))))
        for workflow, app, servers in records.workflows()
    ]
    found = read_receipts(seen, timeout_s)
    return Report(
        tuple(
            _agent(app, agent, calls, found.sums.get((app, names.of(agent))))
            for app, agent, calls in kept
        ),
        found.notes,
    )


def reset_report() -> None:
    """Forget every call so far."""
    call_records.reset()


def _agent(
    app: str | None, agent: str, calls: AgentCalls, receipts: Mapping[str, int] | None
) -> AgentReport:
    mean_s = calls.total_latency_s / calls.ended_calls if calls.ended_calls else None
    return AgentReport(
        agent=agent,
        app=app,
        calls=calls.calls,
        errors=calls.errors,
        prompt_tokens=calls.prompt_tokens,
        cached_tokens=calls.cached_tokens,
        hit_rate=calls.cached_tokens / calls.metered_tokens if calls.metered_tokens else None,
        latency=_times([*calls.latencies_s], mean_s),
        first_token=_times([*calls.first_tokens_s]),
        forecast=_forecast(calls),
        usages=tuple(calls.usages),
        receipts=receipts,
    )


def _forecast(calls: AgentCalls) -> ForecastError:
    timed = calls.timed_calls
    return ForecastError(
        right=calls.forecast_right,
        wrong=calls.forecast_wrong,
        timed=timed,
        mean_abs_s=calls.due_error_s / timed if timed else None,
        mean_late_s=calls.due_lateness_s / timed if timed else None,
    )


def _times(samples_s: Sequence[float], mean_s: float | None = None) -> Times | None:
    if not samples_s:
        return None
    mean_s = statistics.fmean(samples_s) if mean_s is None else mean_s
    if len(samples_s) == 1:
        return Times(mean_s, samples_s[0], samples_s[0])
    cuts = statistics.quantiles(samples_s, n=20, method="inclusive")
    return Times(mean_s, statistics.median(samples_s), cuts[18])
