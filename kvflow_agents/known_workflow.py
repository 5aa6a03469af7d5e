"""What a server knows of one workflow and its agents, and when their KV is needed by that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic

from kvflow_agents.call_receipt import Predicted
from kvflow_agents.claims import Claim, N
from kvflow_agents.expectations import Expectations
from kvflow_agents.hints import Hint
from kvflow_agents.pace import Pace
from kvflow_agents.prefix import PrefixHistory
from kvflow_agents.promise import Promise
from kvflow_agents.track_record import TrackRecord, came_true

LEAST_CHANCE = 0.01
# Who came back so often, though it was not expected, will again.
LEAST_COMEBACKS = 2
# Who has called in a tick is taken to call again in the next but one, after all who are said to
# call in this one or in the next, until a tick tells.
CALLED_STEPS = 2
# What is sooner than this part of a step is now.
LEAST_STEP = 0.1
# An overdue agent is expected after this fraction of the time already waited.
OVERDUE = 0.5


@dataclass(eq=False, slots=True)
class KnownAgent(Generic[N]):
    """One agent of one workflow: its prompts, its claims, and whether it keeps its promises."""

    history: PrefixHistory
    claim: Claim[N] | None = None
    # A shorter or a longer prefix that may come back instead, and how likely.
    other: Claim[N] | None = None
    pauses: int = 0  # of its workflow, before its last call
    promise: Promise = field(default_factory=Promise)
    # Of its calls after it was said not to call again, or not any more.
    comeback: Promise = field(default_factory=Promise)
    # When to look at it again, should it not have called by then.
    alarm_ms: int | None = None

    @property
    def claims(self) -> list[Claim[N]]:
        """The prefixes that are claimed for it."""
        return [each for each in (self.claim, self.other) if each is not None]


@dataclass(slots=True)
class KnownWorkflow(Generic[N]):
    """One workflow: what it has told, and when its agents will call by that."""

    name: str
    app: str | None
    # How many tokens the cache had evicted when its last message came.
    heard_at_tokens: int
    # Whether it has evicted so many since then that what was told no longer counts.
    is_dormant: bool = False
    expected: Expectations = field(default_factory=Expectations)
    # In the order of their last call.
    agents: dict[str, KnownAgent[N]] = field(default_factory=dict)
    tokens_kept: int = 0  # of their prompts
    record: TrackRecord = field(default_factory=TrackRecord)
    # Whether the last message came without a call, as at the end of a run: then nobody is expected
    # for now, which is not wrong when it goes on.
    is_paused: bool = False
    pauses: int = 0
    # When its last message came, and how long its steps take.
    heard_ms: int = 0
    pace: Pace = field(default_factory=Pace)
    # Who was to call next, by its last message.
    next_callers: frozenset[str] = frozenset()
    # Who has called in the present tick, if it goes by ticks.
    called_in_tick: dict[str, None] = field(default_factory=dict)
    # When the last whole forecast came, and the times that changes have told since.
    whole_ms: int | None = None
    said_ms: dict[str, int] = field(default_factory=dict)

    def was_foretold(self, caller: str | None) -> bool | None:
        """Whether a caller, not heard yet, was to come next; None if nothing was said of it."""
        if caller is None:
            return None
        is_expected = self.expected.steps.get(caller) is not None
        return came_true(caller, self.expected) if is_expected or not self.is_paused else None

    def predicted(self, hint: Hint) -> Predicted:
        """What was said of the call that a hint, not heard yet, comes with."""
        agent = hint.agent
        if agent is None:
            return Predicted()
        steps, due_ms = self.expected.steps.get(agent), self.expected.due_ms.get(agent)
        said_ms = self.said_ms.get(agent, self.whole_ms)
        if due_ms is None or said_ms is None or hint.at_ms is None:
            return Predicted(steps, due_ms)
        return Predicted(steps, due_ms, hint.at_ms - said_ms - due_ms)

    def take_in(self, hint: Hint) -> Iterable[str] | None:
        """The agents whose steps a message may have changed; None if it is too old to matter."""
        told = self.expected.take_in(hint.forecast)
        if told is None:
            return None
        self._note_when_told(hint, told)
        is_mid_run = hint.forecast.changes or hint.is_answer
        self.is_paused = hint.agent is None and not is_mid_run
        if self.is_paused:
            self.pauses += 1
            for agent in self.agents.values():
                agent.promise.drop()
        return told

    def _note_when_told(self, hint: Hint, told: Iterable[str]) -> None:
        if not hint.forecast.changes:
            self.whole_ms = hint.at_ms
            self.said_ms.clear()
        elif hint.at_ms is not None:
            due_ms = hint.forecast.due_ms
            self.said_ms.update((agent, hint.at_ms) for agent in told if agent in due_ms)
            if len(self.said_ms) > 2 * len(self.expected.due_ms) + 64:
                known = self.expected.due_ms
                self.said_ms = {name: at for name, at in self.said_ms.items() if name in known}

    def calls_after_pause(self, agent: str) -> bool:
        """Whether an agent's next call is one of a later run: its time is told, but no steps."""
        is_timed = agent in self.expected.due_ms
        return self.is_paused or (is_timed and self.expected.steps.get(agent, 0) is None)

    def steps_of(self, agent: str) -> int | None:
        """In how many steps an agent calls, as far as the workflow is believed."""
        if not self.record.is_good:
            return None
        steps = self.expected.steps.get(agent)
        if steps is not None and agent in self.called_in_tick:
            return max(steps, CALLED_STEPS)
        return steps

    def wait_ms(self, agent: str) -> float | None:
        """After how long an agent calls, as it was said; its steps at the workflow's pace."""
        if not self.record.is_good:
            return None
        said_ms = self.expected.due_ms.get(agent)
        if said_ms is not None:
            return max(said_ms, LEAST_STEP * self.pace.step_ms)
        steps = self.steps_of(agent)
        # Half a step for who is planned now: it is at work, or will be at any moment.
        return None if steps is None else max(steps, 0.5) * self.pace.step_ms

    def due_ms(self, name: str, chance: float, now_ms: int) -> int | None:
        """When KV of an agent is needed, on the clock of the messages, if it is at all.

        What is needed with a chance of one half is needed half as often: after twice as long.
        What is overdue comes the later the longer it has been waited for, as heavy tails have it.
        """
        said_ms, agent = self.wait_ms(name), self.agents[name]
        promise = agent.promise
        if said_ms is None:
            # Who tells times knows better who does not come back.
            is_silent = self.record.is_good and not self.expected.due_ms
            if not is_silent or agent.comeback.kept < LEAST_COMEBACKS:
                return None
            said_ms, promise = self.pace.step_ms, agent.comeback
        wait_ms = promise.corrected_ms(said_ms, self.heard_ms, self.pace.step_ms)
        chance *= self.expected.chance.get(name, 100) / 100
        due_ms = self.heard_ms + int(wait_ms / max(chance, LEAST_CHANCE))
        waited_ms = now_ms - self.heard_ms
        if due_ms > now_ms or waited_ms <= 0:
            return due_ms
        # Never now: its alarm would ring again and again.
        return now_ms + max(int(max(OVERDUE * waited_ms, LEAST_STEP * self.pace.step_ms)), 1)

    def note_time(self, at_ms: int, hint: Hint, steps_said: int | None) -> Iterable[str]:
        """A message comes, perhaps with a call, so many steps after the last as it was said to.

        Who called in the tick that ends with it: what was said of them holds again.
        """
        self.heard_ms = at_ms
        if hint.agent is None:
            if not hint.forecast.changes:
                return ()
            self.pace.note_changes(at_ms, hint.forecast.steps)
            called, self.called_in_tick = self.called_in_tick, {}
            return called
        self.pace.note_call(at_ms, hint.agent, steps_said)
        if self.pace.has_ticks:
            self.called_in_tick[hint.agent] = None
        agent = self.agents.get(hint.agent)
        if agent is not None:
            agent.promise.keep(at_ms, self.pace.step_ms)
            agent.comeback.keep(at_ms, self.pace.step_ms)
        return ()

    def note_promise(self, name: str, caller: str | None) -> None:
        """The last message, perhaps a call's, has said when an agent calls, or that it will not."""
        agent, said_ms = self.agents[name], self.wait_ms(name)
        is_timed = name in self.expected.due_ms
        if said_ms is None:
            agent.comeback.make(self.heard_ms, self.pace.step_ms, self.pace.step_ms)
        # Of the caller steps tell of this call, a time of its next.
        elif name != caller or is_timed:
            agent.promise.make(self.heard_ms, said_ms, None if is_timed else self.pace.step_ms)
