"""How much prefill a policy leaves to do, next to the offline optimum's, on synthetic traffic.

    python benchmarks/policy_quality.py [--workload NAME] [--calls 3000] [--seed 1] [--json FILE]

Clients run applications side by side, each with prompts of its own, in a pool that holds a part of
them; a call takes no time, what lies between two calls does. The policies are the server's own
code. The forecasts are perfect, those of the structure, learned, or wrong in several ways. Two
columns tell what whole leaves cost: to MIN, and to perfect forecasts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import calibration
from calibration import Step, Turn
from kvflow_agents import App, Workflow
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_simulate.clairvoyant import Clairvoyant, Future
from kvflow_simulate.foretold import Foretold
from kvflow_simulate.policies import Policy, Recency
from kvflow_simulate.requests import CallId, Request
from kvflow_simulate.sides import SIDES
from kvflow_simulate.tree import PrefixTree

ANSWER_TOKENS = 16
TAIL_TOKENS = 32
POOL_SHARE = 0.4
# Nothing of the first calls counts: the cache is filling and nothing is learned.
WARM_UP_SHARE = 0.25


@dataclass(frozen=True)
class Call:
    """One call of one client, at a time, with what its adapter would have said."""

    at_s: float
    client: str
    agent: str
    prompt: Tokens
    answer: Tokens
    learned: Forecast | None = None


@dataclass(frozen=True)
class Notice:
    """What a client says without a call: that a run is over."""

    at_s: float
    client: str
    learned: Forecast


Event = Call | Notice


@dataclass(frozen=True)
class Traffic:
    """What kind of application the clients run, and what its prompts are made of."""

    workload: str
    tail: str = "fresh"
    """`fresh`: new in each call; `history`: all that was said in this run."""
    clients: int = 8
    chats: int = 0
    """Chat sessions without hints at a time."""
    one_offs: int = 0
    """Sources of prompts that never come again."""


TRAFFIC = {
    "sequential": Traffic("sequential"),
    "branching": Traffic("branching"),
    "supervisor": Traffic("supervisor"),
    "group chat": Traffic("group chat", tail="history"),
    "tool gaps": Traffic("tool gaps", tail="history"),
    "mixed with chat": Traffic("mixed", tail="history", chats=6, one_offs=2),
    "sequential with chat": Traffic("sequential", chats=6, one_offs=2),
    "chat alone": Traffic("sequential", clients=0, chats=24, one_offs=4),
}

_next_token = iter(range(1, 1 << 60))


def fresh(count: int) -> Tokens:
    """Tokens that nobody has used before."""
    return Tokens("q", (next(_next_token) for _ in range(count)))


def client_calls(traffic: Traffic, app: App, number: int, seed: int) -> Iterator[Event]:
    """One client's runs, one after another, with pauses; one workflow that goes on for ever."""
    chance = random.Random(seed * 1009 + number)
    workload = calibration.WORKLOADS[traffic.workload]
    prefixes: dict[str, Tokens] = {}
    now_s = chance.uniform(0, 20)
    client = f"client{number}"

    def clock() -> float:
        return now_s

    workflow = Workflow(client, app, first_seq=1, clock=clock)
    while True:
        history = Tokens("q")
        for step in workload.make(chance, 0.0):
            workflow.plan("", [turn.agent for turn in step])
            for at_s, turn, is_call in _events(step, now_s, chance):
                now_s = at_s
                if not is_call:
                    workflow.finish("", turn.agent)
                    continue
                if turn.agent not in prefixes:
                    prefixes[turn.agent] = fresh(chance.choice((200, 400, 800)))
                answer = fresh(ANSWER_TOKENS)
                tail = fresh(TAIL_TOKENS)
                if traffic.tail == "history":
                    history += tail
                    tail = history[:]
                    history += answer
                forecast = workflow.hint(turn.agent).forecast
                prompt = prefixes[turn.agent] + tail
                yield Call(now_s, client, turn.agent, prompt, answer, forecast)
        yield Notice(now_s, client, workflow.end(resumable=True).forecast)
        workflow = Workflow(client, app, first_seq=int(now_s * 1e6) + 2, clock=clock)
        now_s += chance.lognormvariate(1.5, 0.8)


def _events(step: Step, now_s: float, chance: random.Random) -> list[tuple[float, Turn, bool]]:
    events = []
    for turn in step:
        at_s = now_s + chance.uniform(0.001, 0.005)
        for gap_s in turn.gaps_s:
            events.append((at_s, turn, True))
            at_s += gap_s
        events.append((at_s, turn, False))
    return sorted(events, key=lambda event: event[0])


def chat_calls(number: int, seed: int) -> Iterator[Call]:
    """Chats without a hint, one after another: each turn holds all that was said before."""
    chance = random.Random(seed * 2003 + number)
    now_s, session = chance.uniform(0, 20), 0
    while True:
        said = fresh(chance.choice((50, 200, 400)))
        session += 1
        while True:
            answer = fresh(ANSWER_TOKENS)
            yield Call(now_s, f"chat{number}", f"chat{number}.{session}", said[:], answer)
            if chance.random() < 0.25:
                break
            said = said + answer + fresh(TAIL_TOKENS)
            now_s += chance.lognormvariate(1.5, 1.2)
        now_s += chance.uniform(1, 20)


def one_off_calls(number: int, seed: int) -> Iterator[Call]:
    """Prompts that never come again."""
    chance = random.Random(seed * 3001 + number)
    now_s, turn = 0.0, 0
    while True:
        now_s += chance.expovariate(0.5)
        turn += 1
        prompt = fresh(chance.choice((100, 300)))
        yield Call(now_s, f"batch{number}", f"batch{number}.{turn}", prompt, fresh(ANSWER_TOKENS))


def events_of(traffic: Traffic, calls: int, seed: int) -> list[Event]:
    """So many calls of all clients, and what is said between them, in the order of time."""
    app = calibration.WORKLOADS[traffic.workload].app()
    sources: list[Iterator[Event]] = []
    sources += [client_calls(traffic, app, number, seed) for number in range(traffic.clients)]
    sources += [chat_calls(number, seed) for number in range(traffic.chats)]
    sources += [one_off_calls(number, seed) for number in range(traffic.one_offs)]
    events: list[Event] = []
    for event in merge(*sources, key=lambda each: each.at_s):
        calls -= isinstance(event, Call)
        if calls < 0:
            break
        events.append(event)
    return events


# ---- hints ----

Tell = Callable[[Sequence[Event]], "list[Forecast | None]"]
"""What is said with each call and at each end of a run."""


def perfect(events: Sequence[Event]) -> list[Forecast | None]:
    """When each agent calls next, and in how many calls if in this run."""
    return _from_the_future(events, over_ends=False)


def endless(events: Sequence[Event]) -> list[Forecast | None]:
    """The same, in how many calls of this run and later ones: for an order that goes by steps."""
    return _from_the_future(events, over_ends=True)


def _from_the_future(events: Sequence[Event], *, over_ends: bool) -> list[Forecast | None]:
    told: list[Forecast | None] = [None] * len(events)
    following: dict[str, dict[str, tuple[int, float]]] = {}
    left: dict[str, int] = {}
    ends: dict[str, int] = {}
    for index in reversed(range(len(events))):
        event = events[index]
        if event.learned is None:
            continue
        known = following.setdefault(event.client, {})
        count = left.get(event.client, 0) - 1
        if isinstance(event, Notice) and not over_ends:
            ends[event.client] = count
        end = ends.get(event.client, 0)
        steps = {agent: at - count if at <= end else None for agent, (at, _) in known.items()}
        due = {agent: int((at_s - event.at_s) * 1000) for agent, (_, at_s) in known.items()}
        if isinstance(event, Call):
            steps.setdefault(event.agent, None)
            known[event.agent] = (count, event.at_s)
            left[event.client] = count
        told[index] = Forecast(index, steps, False, False, due, dict.fromkeys(due, 100))
    return told


def learned(events: Sequence[Event]) -> list[Forecast | None]:
    return [event.learned for event in events]


def structure(events: Sequence[Event]) -> list[Forecast | None]:
    return [told and told._replace(due_ms={}, chance={}) for told in learned(events)]


def absent(events: Sequence[Event]) -> list[Forecast | None]:
    return [None] * len(events)


def stale(events: Sequence[Event]) -> list[Forecast | None]:
    """What was true five messages of the client before."""
    before: dict[str, list[Forecast]] = {}
    told: list[Forecast | None] = []
    for index, (event, forecast) in enumerate(zip(events, perfect(events), strict=True)):
        past = before.setdefault(event.client, [])
        if forecast is not None:
            past.append(forecast)
            forecast = past[max(len(past) - 6, 0)]._replace(seq=index)
        told.append(forecast)
    return told


def shuffled(events: Sequence[Event]) -> list[Forecast | None]:
    """The right figures, of the wrong agents."""
    chance = random.Random(0)

    def shuffle(told: Forecast) -> Forecast:
        agents = list(told.steps)
        others = dict(zip(agents, chance.sample(agents, len(agents)), strict=True))
        return told._replace(
            steps={agent: told.steps[others[agent]] for agent in agents},
            due_ms={
                each: told.due_ms[others[each]] for each in agents if others[each] in told.due_ms
            },
        )

    return [told and shuffle(told) for told in perfect(events)]


def reversed_(events: Sequence[Event]) -> list[Forecast | None]:
    """Whoever is needed first is said to be needed last."""

    def turn_round(told: Forecast) -> Forecast:
        most = max((count for count in told.steps.values() if count is not None), default=0)
        steps = {a: None if count is None else most + 1 - count for a, count in told.steps.items()}
        latest = max(told.due_ms.values(), default=0)
        return told._replace(steps=steps, due_ms={a: latest - ms for a, ms in told.due_ms.items()})

    return [told and turn_round(told) for told in perfect(events)]


def never(events: Sequence[Event]) -> list[Forecast | None]:
    """Nobody is ever needed again."""
    return [
        told and told._replace(steps=dict.fromkeys(told.steps), due_ms={}, chance={})
        for told in perfect(events)
    ]


def now(events: Sequence[Event]) -> list[Forecast | None]:
    """Everybody is needed at once, always."""
    return [
        told
        and told._replace(steps=dict.fromkeys(told.steps, 0), due_ms=dict.fromkeys(told.steps, 0))
        for told in perfect(events)
    ]


HINTS: Mapping[str, Tell] = {
    "perfect": perfect,
    "learned": learned,
    "structure": structure,
    "absent": absent,
    "stale": stale,
    "shuffled": shuffled,
    "reversed": reversed_,
    "never": never,
    "now": now,
}


# ---- the cache ----


Order = Callable[[PrefixTree], Policy]


def prefill_tokens(
    events: Sequence[Event], told: Sequence[Forecast | None], make: Order, pool_tokens: int
) -> int:
    """The prompt tokens that have to be computed after the warm-up."""
    made: list[Policy] = []

    def order(tree: PrefixTree) -> Policy:
        made.append(make(tree))
        return made[0]

    tree = PrefixTree(device_tokens=pool_tokens, host_tokens=0, order=order)
    policy, computed, served = made[0], 0, 0
    requests = requests_of(events, told)
    left = iter(requests)
    for event, forecast in zip(events, told, strict=True):
        if isinstance(event, Notice):
            if forecast is not None:
                policy.told(Hint(event.client, forecast, app="app"), event.at_s)
            continue
        request = next(left)
        policy.arrived(request, event.at_s)
        match = tree.match(request.prompt[:-1])
        tree.lock(match.device)
        policy.found(request, match.device_tokens)
        missing = len(request.prompt) - match.device_tokens
        served += 1
        if served > len(requests) * WARM_UP_SHARE:
            computed += missing
        _make_room(tree, policy, missing + len(request.answer))
        policy.inserting(request)
        leaf = tree.insert(request.prompt)
        tree.lock(leaf)
        tree.unlock(match.device)
        policy.prompt_cached(request, leaf)
        end = tree.insert(request.prompt + request.answer)
        policy.answer_cached(request, end)
        tree.unlock(leaf)
    return computed


def requests_of(events: Sequence[Event], told: Sequence[Forecast | None]) -> list[Request]:
    return [
        Request(
            CallId(0, index),
            event.agent,
            event.prompt,
            event.answer,
            None if forecast is None else Hint(event.client, forecast, event.agent, "app"),
        )
        for index, (event, forecast) in enumerate(zip(events, told, strict=True))
        if isinstance(event, Call)
    ]


def _make_room(tree: PrefixTree, policy: Policy, tokens: int) -> None:
    shortfall = tree.device_used + tokens - tree.device_tokens
    if shortfall > 0:
        policy.turn_over(tree.evict(shortfall))


def footprint_tokens(calls: Sequence[Call]) -> int:
    """What of the prompts comes again, at most at one time: the last prompt of every agent."""
    last = {(call.client, call.agent): len(call.prompt) for call in calls if call.learned}
    return sum(last.values()) or 12_000


class WholeLeaves(Clairvoyant):
    """MIN for a cache that evicts whole leaves, as servers do."""

    part_to_evict = Recency.part_to_evict


class InWholes(Foretold):
    """kvflow's order in a cache that evicts whole leaves."""

    part_to_evict = Recency.part_to_evict


def measure(name: str, calls: int, seed: int, hints: Sequence[str]) -> dict[str, object]:
    """The prefill of every policy on one kind of traffic."""
    events = events_of(TRAFFIC[name], calls, seed)
    made = [event for event in events if isinstance(event, Call)]
    pool_tokens = int(POOL_SHARE * footprint_tokens(made))
    future = Future(requests_of(events, absent(events)))

    def run(side: str, tell: Tell = absent) -> int:
        make = SIDES[side].make
        return run_order(lambda tree: make(tree, future), tell)

    def run_order(order: Order, tell: Tell = absent) -> int:
        return prefill_tokens(events, tell(events), order, pool_tokens)

    row: dict[str, object] = {"workload": name, "calls": calls, "seed": seed}
    row["pool_tokens"] = pool_tokens
    row |= {"lru": run("lru"), "optimum": run("optimum-device"), "papers": run("papers", endless)}
    row["whole leaves"] = run_order(lambda tree: WholeLeaves(tree, future))
    if "perfect" in hints:
        row["perfect, whole leaves"] = run_order(InWholes, perfect)
    return row | {kind: run("ours-device", HINTS[kind]) for kind in hints}


def main(
    workload: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    hints: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    calls: Annotated[int, typer.Option(min=100)] = 3000,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; default: 1.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Compare the prefill that policies leave to do."""
    runs = [(name, each) for each in seed or (1,) for name in workload or TRAFFIC]
    rows = [measure(name, calls, each, hints or list(HINTS)) for name, each in track(runs)]
    Console(width=180).print(table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Mapping[str, object]]) -> Table:
    about = ("workload", "calls", "seed", "pool_tokens", "optimum")
    columns = [name for name in rows[0] if name not in about]
    title = "Prefill tokens over the optimum's (over LRU's)"
    made = Table("workload", "seed", *columns, title=title)
    for row in rows:
        best, recency = int(str(row["optimum"])), int(str(row["lru"]))
        cells = [
            f"{int(str(row[c])) / best:.2f} ({int(str(row[c])) / recency:.2f})" for c in columns
        ]
        made.add_row(str(row["workload"]), str(row["seed"]), *cells)
    return made


if __name__ == "__main__":
    typer.run(main)
