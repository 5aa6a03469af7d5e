"""A trace as the simulated engine hears it: calls in tokens, when it is time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_agents.trail import Clock
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.forecasts import Forecaster
from kvflow_simulate.requests import CallId, Request, Traffic


class TraceTraffic(Traffic):
    """Sends each call when the trace says, or so long after the answer to its session's last one.

    Ends are said when the trace says, but not before that answer. Times of the trace count from
    its first event, `speed` times as fast. Without a `forecaster` nothing is said; `clock` is the
    engine's.
    """

    def __init__(
        self,
        events: Sequence[Event],
        block_tokens: int,
        *,
        clock: Clock,
        forecaster: Forecaster | None = None,
        speed: float = 1.0,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """`events` are in the order of time."""
        self._events = events
        self._block_tokens = block_tokens
        self._clock = clock
        self._forecaster = forecaster
        self._speed = speed
        self._progress = progress
        self._following: dict[int, list[int]] = {}
        self._newest: dict[str | None, int] = {}
        self._timed = iter(self._sort_out())
        # What has its time or an answer has given it one; of the former one at a time.
        self._due: list[tuple[float, int]] = []
        self._hand_out()

    def first(self) -> Iterable[Request]:
        """None: every call has its time."""
        return ()

    @property
    def next_s(self) -> float:
        return self._due[0][0] if self._due else math.inf

    def send(self) -> Request | Hint | None:
        at_s, index = heapq.heappop(self._due)
        if index == self._handed_out:
            self._hand_out()
        event = replace(self._events[index], at_s=at_s)
        if isinstance(event, End):
            # Who has called again meanwhile is not at the end.
            is_over = self._newest.get(event.workflow, -1) < index
            return self._forecaster.end(event) if self._forecaster and is_over else None
        self._newest[event.workflow] = index
        hint = self._forecaster.call(event) if self._forecaster else None
        return request_of(event, index, self._block_tokens, hint)

    def answered(self, request: Request) -> Iterable[Request]:
        """None at once: what has waited for this answer has its time now."""
        index = request.id.number
        call = self._events[index]
        if self._forecaster is not None and isinstance(call, Call):
            self._forecaster.answered(call)
        for following in self._following.pop(index, ()):
            at_s = self._after(self._events[following], self._clock())
            heapq.heappush(self._due, (at_s, following))
        self._progress()
        return ()

    def _sort_out(self) -> list[int]:
        """Which events wait for nothing; the others are kept by the call that they wait for."""
        timed: list[int] = []
        last: dict[str, int] = {}
        for index, event in enumerate(self._events):
            before = None if event.workflow is None else last.get(event.workflow)
            if before is not None and (isinstance(event, End) or event.delay_s is not None):
                self._following.setdefault(before, []).append(index)
            else:
                timed.append(index)
            if isinstance(event, Call) and event.workflow is not None:
                last[event.workflow] = index
        return timed

    def _hand_out(self) -> None:
        """The next one that waits for nothing has come."""
        self._handed_out = next(self._timed, None)
        if self._handed_out is not None:
            at_s = self._time_s(self._events[self._handed_out])
            heapq.heappush(self._due, (at_s, self._handed_out))

    def _after(self, event: Event, answered_s: float) -> float:
        if isinstance(event, End):
            return max(self._time_s(event), answered_s)
        return answered_s + (event.delay_s or 0.0) / self._speed

    def _time_s(self, event: Event) -> float:
        return (event.at_s - self._events[0].at_s) / self._speed


def request_of(call: Call, number: int, block_tokens: int, hint: Hint | None = None) -> Request:
    """A call in tokens: each is its block's number, and those of its answer nobody else's."""
    prompt = Tokens("q")
    for block in call.blocks:
        prompt += Tokens("q", [block]) * block_tokens
    del prompt[call.prompt_tokens :]
    answer = Tokens("q", [-1 - number]) * (call.output_tokens - 1)
    return Request(CallId(0, number), call.agent or "", prompt, answer, hint)
