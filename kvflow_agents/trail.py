"""The trail of one run: its last calls, and what followed them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kvflow_agents.following import Fate
from kvflow_agents.habits import Habits

# A call is followed for so many calls; an agent that comes later counts as not coming again.
MAX_CALLS = 128
PAUSE = "\x00pause"
"""The end of a run that may go on, as if an agent had called then; no agent has such a name."""

# Who calls first after so many others have is not part of a scene.
MAX_CAST = 16
# Calls that may wait until they are learned, together: one by one takes several times as long, for
# between two calls the application has the processor's caches.
MAX_UNLEARNED = 8
_BETWEEN = "\x1f"

Clock = Callable[[], float]
"""Seconds that never go back."""


class Trail:
    """Teaches an application's habits what one run does. Not safe to use from several threads.

    A call's scene is who makes it and who has called before it in the run, in no order: what kind
    of run it is shows there, and it is soon the same in one that goes on and on.
    """

    def __init__(self, habits: Habits, clock: Clock) -> None:
        self._habits = habits
        self._clock = clock
        self._calls: deque[Fate] = deque()
        self._unlearned: list[tuple[str, str, float]] = []
        self._unlearned_turns: list[tuple[str, float]] = []
        self._turns: dict[str, float] = {}
        self._called: set[str] = set()
        self._cast = ""

    def scene(self, agent: str) -> str:
        """The scene of a call that an agent makes now."""
        return f"{agent}{_BETWEEN}{self._cast}"

    def call(self, agent: str) -> str:
        """An agent calls the model; in which scene."""
        now_s = self._clock()
        scene = f"{agent}{_BETWEEN}{self._cast}"
        self._unlearned.append((agent, scene, now_s))
        if len(self._unlearned) == MAX_UNLEARNED:
            self.learn()
        if agent not in self._called and len(self._called) < MAX_CAST:
            self._called.add(agent)
            self._cast = _BETWEEN.join(sorted(self._called))
        if agent not in self._turns and len(self._turns) < MAX_CALLS:
            self._turns[agent] = now_s
        return scene

    def finish(self, agent: str) -> None:
        """An agent is no longer at work."""
        began_s = self._turns.pop(agent, None)
        if began_s is not None:
            self._unlearned_turns.append((agent, (self._clock() - began_s) * 1000.0))

    def learn(self) -> None:
        """Let the habits know of all that has happened so far."""
        for agent, scene, at_s in self._unlearned:
            self._learn(agent, scene, at_s)
        self._unlearned.clear()
        for agent, ms in self._unlearned_turns:
            self._habits.note_turn(agent, ms)
        self._unlearned_turns.clear()

    def _learn(self, agent: str, scene: str, at_s: float) -> None:
        """Costs O(calls since the agent's last one), at most `MAX_CALLS`."""
        earlier = []
        for fate in reversed(self._calls):
            if agent in fate.followers:
                break  # and so it is in those before
            earlier.append(fate)
        new = self._habits.note_call(agent, scene, at_s, earlier)
        if new is not None:
            self._calls.append(new)
            if len(self._calls) > MAX_CALLS:
                self._habits.note_fates([self._calls.popleft()])

    def pause(self) -> None:
        """The run is over, but the workflow may go on."""
        self._leave_stage()
        self.call(PAUSE)
        self.learn()
        self._leave_stage()

    def end(self) -> None:
        """Nothing follows any more."""
        self.learn()
        self._habits.note_fates(self._calls)
        self._calls.clear()
        self._leave_stage()

    def _leave_stage(self) -> None:
        self._turns.clear()
        self._called.clear()
        self._cast = ""
