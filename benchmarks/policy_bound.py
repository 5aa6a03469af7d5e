"""How little prefill can be left where chance decides who calls next: with the true chances known.

    python benchmarks/policy_bound.py [--workload NAME] [--calls 6000] [--seed 1] [--json FILE]

The traffic is that of `policy_quality.py`. This policy is told nothing; it knows how the traffic is
made: when each agent calls next after what has happened in a run so far, as 60,000 other calls have
shown it, given that nothing has happened since. No forecast knows more but by knowing the future.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import policy_quality
from kvflow_agents.claims import Claim
from kvflow_agents.eviction import Preference, Rank
from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_simulate.clairvoyant import Future
from kvflow_simulate.policies import Claimed, Policy
from kvflow_simulate.requests import Request
from kvflow_simulate.sides import SIDES
from kvflow_simulate.tree import Node, PrefixTree, TokenKey
from policy_quality import TRAFFIC, Call, Notice

OTHER_CALLS = 60_000
OTHER_SEED = 77
# For how long nothing has happened in a run, in seconds; what lies between is rounded down.
SILENCES_S = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
MOST_SAMPLES = 3000
FEWEST_SAMPLES = 10
NEVER_S = 1e5

Past = tuple[object, ...]
"""What of a run tells of its future: its last two callers, and who else has called."""
Waits = Mapping[str, tuple[float, float]]
"""Of each agent: the median time to its next call, in any run and in this one."""


def past(callers: Sequence[str]) -> Past:
    return (*callers[-2:], min(len(callers), 3), frozenset(callers[1:]))


class Sample(tuple[float, "list[tuple[str, float, bool]]"]):
    """How long nothing happened after a moment, and who called next when, and in the same run."""


def samples_of(events: Iterable[Call | Notice]) -> dict[Past, list[Sample]]:
    """All moments of other traffic, by what had happened before."""
    clients: dict[str, list[Call | Notice]] = defaultdict(list)
    for event in events:
        clients[event.client].append(event)
    samples: dict[Past, list[Sample]] = defaultdict(list)
    for all_events in clients.values():
        for before, sample in zip(_pasts(all_events), _futures(all_events), strict=True):
            if sample is not None:
                samples[before].append(sample)
    return samples


def _pasts(events: Sequence[Call | Notice]) -> list[Past]:
    pasts, callers = [], list[str]()
    for event in events:
        callers = [] if isinstance(event, Notice) else [*callers, event.agent]
        pasts.append(past(callers))
    return pasts


def _futures(events: Sequence[Call | Notice]) -> list[Sample | None]:
    """None for the last event: nothing is known to follow."""
    futures: list[Sample | None] = [None]
    next_s: dict[str, float] = {}
    this_run: set[str] = set()
    for event, later in zip(events[-2::-1], events[:0:-1], strict=True):
        if isinstance(later, Notice):
            this_run = set()
        else:
            next_s[later.agent] = later.at_s
            this_run.add(later.agent)
        waits = [(agent, s - event.at_s, agent in this_run) for agent, s in next_s.items()]
        futures.append(Sample((later.at_s - event.at_s, waits)))
    return futures[::-1]


def waits_of(samples: Sequence[Sample], silence_s: float) -> Waits | None:
    """What is left to wait after a silence; None if too little is known."""
    left = [waits for until_s, waits in samples[:MOST_SAMPLES] if until_s > silence_s]
    if len(left) < FEWEST_SAMPLES:
        return None
    ever: dict[str, list[float]] = defaultdict(list)
    in_run: dict[str, list[float]] = defaultdict(list)
    for waits in left:
        for agent, wait_s, is_this_run in waits:
            ever[agent].append(wait_s - silence_s)
            in_run[agent].append(wait_s - silence_s if is_this_run else NEVER_S)
    return {agent: (median(ever[agent]), median(in_run[agent])) for agent in ever}


class Informed(Claimed):
    """Evicts what is used furthest ahead by the true chances: two claims for each agent, one on
    what all its prompts begin with and one on its last prompt."""

    def __init__(
        self, tree: PrefixTree, waits: Mapping[tuple[Past, int], Waits], s_per_access: float
    ) -> None:
        super().__init__(tree)
        self._waits = waits
        self._s_per_access = s_per_access
        self._now_s = 0.0
        self._callers: dict[str, list[str]] = defaultdict(list)
        self._heard_s: dict[str, float] = {}
        self._shared: dict[tuple[str, str], Tokens] = {}
        self._last: dict[tuple[str, str], Tokens] = {}
        self._claims: dict[tuple[str, str, bool], Claim[Node]] = {}

    def preference(self, *, on_host: bool) -> Preference:
        return self._expected_goes

    def arrived(self, request: Request, now_s: float) -> None:
        self._now_s = now_s
        self._look_again()

    def told(self, hint: Hint, now_s: float) -> None:
        """A run is over."""
        self._now_s = self._heard_s[hint.workflow] = now_s
        self._callers[hint.workflow] = []
        for client, agent in self._last:
            if client == hint.workflow:
                self._place((client, agent, True), self._last[client, agent], NEVER_S)
        self._look_again()

    def inserting(self, request: Request) -> None:
        self.user = None if request.hint is None else request.hint.workflow

    def prompt_cached(self, request: Request, leaf: Node) -> None:
        if request.hint is None:
            self.ledger.use(leaf, None)
            return
        client, agent = request.hint.workflow, request.agent
        owner = client, agent
        before = self._shared.get(owner, request.prompt)
        common = TokenKey(before).match_at(TokenKey(request.prompt), 0)
        self._shared[owner] = request.prompt[:common]
        self.tree.cut(TokenKey(self._shared[owner]))
        self._last[owner] = request.prompt
        self._callers[client].append(agent)
        self._heard_s[client] = self._now_s
        self._look_again()

    def answer_cached(self, request: Request, leaf: Node) -> None:
        if request.hint is None:
            self.ledger.use(leaf, None)

    def _look_again(self) -> None:
        for client, heard_s in self._heard_s.items():
            for agent, (ever_s, in_run_s) in self._left(client, heard_s).items():
                if (client, agent) in self._last:
                    self._place((client, agent, False), self._shared[client, agent], ever_s)
                    self._place((client, agent, True), self._last[client, agent], in_run_s)

    def _left(self, client: str, heard_s: float) -> Waits:
        before = past(self._callers[client])
        silence = bisect(SILENCES_S, self._now_s - heard_s) - 1
        known = (self._waits.get((before, each)) for each in range(silence, -1, -1))
        return next((waits for waits in known if waits is not None), {})

    def _place(self, name: tuple[str, str, bool], tokens: Tokens, wait_s: float) -> None:
        old = self._claims.pop(name, None)
        if old is not None:
            self.ledger.remove(old)
        if wait_s < NEVER_S / 2:
            due_ms = int(1000 * (self._now_s + wait_s))
            self._claims[name] = self.ledger.place(TokenKey(tokens), due_ms)

    def _expected_goes(self, ordinary: Rank, expected: Rank) -> bool:
        """KV without a forecast is used again after as long as it has rested, as in LRU."""
        rested_s = (self.tree.accesses - ordinary.last_access) * self._s_per_access
        return expected.distance / 1000 - self._now_s > rested_s


def measure(name: str, calls: int, seed: int) -> dict[str, object]:
    traffic = TRAFFIC[name]
    alone = replace(traffic, chats=0, one_offs=0)
    samples = samples_of(policy_quality.events_of(alone, OTHER_CALLS, OTHER_SEED))
    waits = {
        (before, number): found
        for before, seen in samples.items()
        for number, silence_s in enumerate(SILENCES_S)
        if (found := waits_of(seen, silence_s)) is not None
    }
    events = policy_quality.events_of(traffic, calls, seed)
    made = [event for event in events if isinstance(event, Call)]
    pool_tokens = int(policy_quality.POOL_SHARE * policy_quality.footprint_tokens(made))
    future = Future(policy_quality.requests_of(events, policy_quality.absent(events)))
    s_per_access = made[-1].at_s / len(made)
    told = policy_quality.learned(events)

    def informed(tree: PrefixTree, _: Future | None) -> Policy:
        return Informed(tree, waits, s_per_access)

    def computed(make: Callable[[PrefixTree, Future | None], Policy]) -> int:
        return policy_quality.prefill_tokens(
            events, told, lambda tree: make(tree, future), pool_tokens
        )

    return {
        "workload": name,
        "calls": calls,
        "seed": seed,
        "pool_tokens": pool_tokens,
        "lru": computed(SIDES["lru"].make),
        "optimum": computed(SIDES["optimum-device"].make),
        "learned": computed(SIDES["ours-device"].make),
        "informed": computed(informed),
    }


def main(
    workload: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    calls: Annotated[int, typer.Option(min=100)] = 6000,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; default: 1 to 3.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Compare learned forecasts with a policy that knows the true chances."""
    names = workload or ["group chat", "mixed with chat", "tool gaps", "branching", "supervisor"]
    runs = [(name, each) for name in names for each in seed or (1, 2, 3)]
    rows = [measure(name, calls, each) for name, each in track(runs)]
    shown = Table("workload", "seed", "LRU", "learned", "true chances known", title="Over MIN's")
    for row in rows:
        parts = [
            int(str(row[side])) / int(str(row["optimum"]))
            for side in ("lru", "learned", "informed")
        ]
        shown.add_row(str(row["workload"]), str(row["seed"]), *(f"{part:.2f}" for part in parts))
    Console().print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
