"""Who of those who may call next will: only their prefixes are worth a load ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping

from kvflow_agents.track_record import TrackRecord

# Who is due after more than so many times as long as the first is not next. Times are uncertain: of
# three who call at once one was at times expected after seven times as long as another.
TOGETHER = 8.0
# Of one tenant. Who was judged longest ago is forgotten, and has the benefit of the doubt again.
MOST_AGENTS = 1024


def due_together(waits_ms: Mapping[str, float]) -> frozenset[str]:
    """The agents who are due about when the first of them is; `waits_ms`: for each step.

    Steps cannot tell: of an open graph's agents, as of a branch's, all may be one step away.
    """
    shortest_ms = min(waits_ms.values(), default=0.0)
    return frozenset(
        agent for agent, wait_ms in waits_ms.items() if wait_ms <= TOGETHER * shortest_ms
    )


class NextCallers:
    """Whether agents who were to call next did, more often than not; by application. Pure.

    A prefix that is loaded for somebody who is not called takes the place of others, and the link
    from them. Who is expected still when another calls, as beside it, is not judged.
    """

    def __init__(self, *, most_agents: int = MOST_AGENTS) -> None:
        self._most_agents = most_agents
        self._records: OrderedDict[tuple[str, str], TrackRecord] = OrderedDict()

    def judge(
        self,
        app: str,
        were_next: Collection[str],
        *,
        are_next: Collection[str] = (),
        at_work: Collection[str] = (),
    ) -> None:
        """A message has come: who was next before it, who is now, and who calls or is about to."""
        for agent in sorted(were_next):  # or ranks would forget in orders of their own
            has_begun = agent in at_work
            if has_begun or agent not in are_next:
                self._record(app, agent).note_call(has_begun)

    def is_likely(self, app: str, agent: str) -> bool:
        """Whether an agent calls when it is next; True if nothing is known of it."""
        record = self._records.get((app, agent))
        return record is None or record.is_good

    def _record(self, app: str, agent: str) -> TrackRecord:
        record = self._records.setdefault((app, agent), TrackRecord())
        self._records.move_to_end((app, agent))
        if len(self._records) > self._most_agents:
            self._records.popitem(last=False)
        return record
