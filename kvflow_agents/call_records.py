"""What is kept of the model calls of this process, agent by agent; bounded."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVarTuple, Unpack

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.servers import Server
from kvflow_agents.track_record import came_true

LEAST_ANSWERS = 3
# Events that may wait until they are counted, together: see `trail.MAX_UNLEARNED`. A call has two,
# if its answer is a stream three.
MAX_UNCOUNTED = 16

Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Limits:
    """Whoever was silent longest is forgotten first; of an agent the last calls are kept."""

    most_agents: int = 2048
    most_workflows: int = 256
    last_calls: int = 256


class Usage(NamedTuple):
    """What one call took; the time is that of its beginning, of the epoch."""

    when_s: float
    cached_tokens: int | None
    prompt_tokens: int
    output_tokens: int | None = None


@dataclass(slots=True)
class AgentCalls:
    """What one agent of one app has done."""

    latencies_s: deque[float]
    first_tokens_s: deque[float]
    usages: deque[Usage]
    calls: int = 0
    ended_calls: int = 0
    errors: int = 0
    metered_calls: int = 0
    """Those whose response said how many tokens were cached."""
    prompt_tokens: int = 0
    metered_tokens: int = 0
    """Prompt tokens of metered calls."""
    cached_tokens: int = 0
    total_latency_s: float = 0.0
    forecast_right: int = 0
    forecast_wrong: int = 0
    timed_calls: int = 0
    """Those of which a time was forecast."""
    due_error_s: float = 0.0
    """Summed, without sign."""
    due_lateness_s: float = 0.0
    """Summed: above 0 if calls came later than was said."""


class Listener(Protocol):
    """Who else wants to know of a call."""

    def use(
        self, prompt_tokens: int, cached_tokens: int | None, output_tokens: int | None
    ) -> None: ...
    def end(self) -> None: ...


class CallUnderWay:
    """One call from its first attempt to the end of its answer."""

    listener: Listener | None = None
    calls: AgentCalls | None = None
    """Where it is counted, once it is."""
    is_metered = False
    _usage: Usage | None = None
    _has_answered = _has_ended = False

    def __init__(self, records: CallRecords, started_s: float) -> None:
        self._records = records
        self._started_s = started_s
        self._when_s = time.time()

    def answer(self) -> None:
        """Something of the answer has come; only the first time counts."""
        if not self._has_answered:
            self._has_answered = True
            self._records.add(_note_answer, self, time.perf_counter() - self._started_s)

    def use(
        self, prompt_tokens: int, cached_tokens: int | None, output_tokens: int | None = None
    ) -> None:
        """The response says what it used; the last word before the end counts.

        None: the server does not say what was cached.
        """
        if self.listener is not None:
            self.listener.use(prompt_tokens, cached_tokens, output_tokens)
        self._usage = Usage(self._when_s, cached_tokens, prompt_tokens, output_tokens)
        if self._has_ended:
            self._records.add(_meter, self, self._usage)

    def end(self) -> None:
        """The answer is complete, or nobody wants the rest."""
        if self._has_ended:
            return
        self._has_ended = True
        self._records.add(_note_end, self, time.perf_counter() - self._started_s, self._usage)
        if self.listener is not None:
            self.listener.end()

    def fail(self) -> None:
        """It has raised an error; its latency says nothing."""
        self._has_ended = True
        self._records.add(_note_error, self)


class _Workflow:
    """Where a workflow calls, and what its forecasts have said last."""

    def __init__(self, app: str | None) -> None:
        self.app = app
        self.servers: set[Server] = set()
        self.steps: Mapping[str, int | None] = {}
        self.due_ms: Mapping[str, int] = {}
        self.when_s = 0.0

    def take_in(self, forecast: Forecast, now_s: float) -> None:
        """A whole forecast replaces what was before."""
        if forecast.changes:
            told = forecast.steps
            kept = {agent: due for agent, due in self.due_ms.items() if agent not in told}
            late_ms = int((now_s - self.when_s) * 1000)
            self.steps = {**self.steps, **told}
            self.due_ms = {agent: due - late_ms for agent, due in kept.items()} | dict(
                forecast.due_ms
            )
        else:
            self.steps, self.due_ms = forecast.steps, forecast.due_ms
        self.when_s = now_s

    def nearest(self) -> int | None:
        return min((steps for steps in self.steps.values() if steps), default=None)


class CallRecords:
    """The calls of every agent, told apart by app and agent, and the workflows seen."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._agents: OrderedDict[tuple[str | None, str], AgentCalls] = OrderedDict()
        self._workflows: OrderedDict[str, _Workflow] = OrderedDict()
        self._events: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()

    def begin(self, hint: Hint, server: Server, started_s: float) -> CallUnderWay:
        """An agent calls, with a hint, since `started_s` of `time.perf_counter`."""
        call = CallUnderWay(self, started_s)
        self.add(self._begin, call, hint, server, started_s)
        return call

    def note(self, hint: Hint) -> None:
        """A workflow has told a forecast without a call."""
        self.add(self._note, hint, time.perf_counter())

    def add(self, count: Callable[[Unpack[Ts]], None], *event: *Ts) -> None:
        """Something has happened, which `count` counts before anybody looks."""
        self._events.append((count, *event))
        # Who has the lock counts them, or the next event does. Waiting for it, a finalizer that
        # ends a call while its own thread counts would wait for ever.
        if len(self._events) >= MAX_UNCOUNTED and self._lock.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self._lock.release()

    def reset(self) -> None:
        """Forget everything; calls under way are not counted."""
        with self._lock:
            self._catch_up()
            self._agents.clear()
            self._workflows.clear()

    def agents(self) -> list[tuple[str | None, str, AgentCalls]]:
        """App, agent and a copy of what is kept, the agents that called last at the end."""
        with self._lock:
            self._catch_up()
            return [(app, agent, _copy(calls)) for (app, agent), calls in self._agents.items()]

    def output_tokens(self, app: str | None, agent: str) -> int | None:
        """How long an agent's answers get, the median of its last; None if too few are known."""
        with self._lock:
            self._catch_up()
            calls = self._agents.get((app, agent))
            usages = () if calls is None else calls.usages
            lengths = [each.output_tokens for each in usages if each.output_tokens is not None]
        return sorted(lengths)[len(lengths) // 2] if len(lengths) >= LEAST_ANSWERS else None

    def workflows(self) -> list[tuple[str, str | None, tuple[Server, ...]]]:
        """Workflow, its app and its servers, the workflows that called last at the end."""
        with self._lock:
            self._catch_up()
            return [(name, each.app, tuple(each.servers)) for name, each in self._workflows.items()]

    def _catch_up(self) -> None:
        """Count what has happened, in its order."""
        while self._events:
            count, *event = self._events.popleft()
            count(*event)

    def _begin(self, call: CallUnderWay, hint: Hint, server: Server, started_s: float) -> None:
        calls = call.calls = self._agent(hint.app, hint.agent or "")
        calls.calls += 1
        workflow = self._workflow(hint)
        workflow.servers.add(server)
        _judge(calls, hint.agent or "", workflow, started_s)
        workflow.take_in(hint.forecast, started_s)

    def _note(self, hint: Hint, now_s: float) -> None:
        if hint.workflow in self._workflows:
            self._workflows[hint.workflow].take_in(hint.forecast, now_s)

    def _agent(self, app: str | None, agent: str) -> AgentCalls:
        key = (app, agent)
        calls = self._agents.get(key)
        if calls is None:
            last_calls = self._limits.last_calls
            calls = self._agents[key] = AgentCalls(
                deque(maxlen=last_calls), deque(maxlen=last_calls), deque(maxlen=last_calls)
            )
            if len(self._agents) > self._limits.most_agents:
                self._agents.popitem(last=False)
        else:
            self._agents.move_to_end(key)
        return calls

    def _workflow(self, hint: Hint) -> _Workflow:
        workflow = self._workflows.get(hint.workflow)
        if workflow is None:
            workflow = self._workflows[hint.workflow] = _Workflow(hint.app)
            if len(self._workflows) > self._limits.most_workflows:
                self._workflows.popitem(last=False)
        else:
            self._workflows.move_to_end(hint.workflow)
        return workflow


def _judge(calls: AgentCalls, agent: str, said: _Workflow, now_s: float) -> None:
    was_right = came_true(agent, said)
    calls.forecast_right += was_right is True
    calls.forecast_wrong += was_right is False
    due_ms = said.due_ms.get(agent)
    if due_ms is not None:
        lateness_s = now_s - said.when_s - due_ms / 1000
        calls.timed_calls += 1
        calls.due_error_s += abs(lateness_s)
        calls.due_lateness_s += lateness_s


def _note_answer(call: CallUnderWay, after_s: float) -> None:
    if call.calls is not None:
        call.calls.first_tokens_s.append(after_s)


def _note_end(call: CallUnderWay, latency_s: float, usage: Usage | None) -> None:
    if call.calls is not None:
        call.calls.ended_calls += 1
        call.calls.total_latency_s += latency_s
        call.calls.latencies_s.append(latency_s)
        _meter(call, usage)


def _note_error(call: CallUnderWay) -> None:
    if call.calls is not None:
        call.calls.errors += 1


def _meter(call: CallUnderWay, usage: Usage | None) -> None:
    calls = call.calls
    if calls is None or usage is None or call.is_metered:
        return
    call.is_metered = True
    calls.prompt_tokens += usage.prompt_tokens
    calls.usages.append(usage)
    if usage.cached_tokens is not None:
        calls.metered_calls += 1
        calls.metered_tokens += usage.prompt_tokens
        calls.cached_tokens += usage.cached_tokens


def _copy(calls: AgentCalls) -> AgentCalls:
    return replace(
        calls,
        latencies_s=calls.latencies_s.copy(),
        first_tokens_s=calls.first_tokens_s.copy(),
        usages=calls.usages.copy(),
    )


call_records = CallRecords()
"""Of this process."""
