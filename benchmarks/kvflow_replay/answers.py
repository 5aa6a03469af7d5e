"""What a server answered to a trace, in all and by agent."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvflow_replay.replay import agent_title

if TYPE_CHECKING:  # it needs aiohttp, which only a replay against a server needs
    from kvflow_bench.client import Answer

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
