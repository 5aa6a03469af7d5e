"""How well agents and forecasts are inferred from traffic alone, and what that is worth.

Workflows of four agents run at once, their calls mixed at random, through the cache of a server:
stock LRU, kvflow with inferred hints, kvflow with the hints of an adapter, and Belady's MIN.

Run in the server's environment: `.venv-server/bin/python benchmarks/inference_quality.py`.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.step_graph import StepGraph
from kvflow_sglang.standalone import StandaloneCache

CONCURRENT = 16
WORDS = 50_000  # token ids
AGENTS = ("planner", "coder", "tester", "reviewer")
GRAPH = StepGraph(agents=AGENTS).with_edges(
    [
        ("planner", "coder"),
        ("coder", "tester"),
        ("tester", "coder"),
        ("tester", "reviewer"),
        ("reviewer", "planner"),
    ]
)
CHAT = StepGraph(agents=AGENTS[:1]).with_edges([(AGENTS[0], AGENTS[0])])
TEMPLATE_HEAD = list(range(12))


@dataclass(frozen=True, slots=True)
class Workload:
    """What the workflows are like. Lengths in tokens."""

    name: str
    rounds: int = 4
    workflows: int = 48
    private_prompts: bool = False
    """Whether each workflow has system prompts of its own, or all have the same."""
    system_tokens: int = 400
    common_tokens: int = 0
    """What all system prompts begin with."""
    document_tokens: int = 300
    """What a workflow repeats to all its agents after the system prompt."""
    grows: bool = False
    """Whether an agent's prompts hold all that it has said and heard."""
    retries: float = 0.4
    """How often the tester sends the coder back."""
    answer_tokens: int = 40
    quoted_tokens: int = 24
    one_offs: float = 0.0
    """Prompts of nobody's workflow, for each call of a workflow."""
    repeats_answers: bool = True
    phrase_tokens: int = 0
    """What every answer begins with; quotes lose their first token, as if joined to a word."""
    documents: int | None = None
    """How many different ones there are; None: one for each workflow."""
    sessions: bool = False
    """Whether requests carry a session id."""
    chats: bool = False
    """Whether a workflow is one agent that is asked up to twelve times."""
    pool_share: float = 0.5
    """The pool, of what the prompts of all concurrent agents take."""

    @property
    def pool_tokens(self) -> int:
        each = 1 if self.chats else len(AGENTS)
        agents = CONCURRENT * each
        systems = agents if self.private_prompts else each
        history = self.rounds * (self.answer_tokens + self.quoted_tokens + 8) if self.grows else 60
        fixed = self.common_tokens + systems * self.system_tokens
        return int(self.pool_share * (fixed + agents * (self.document_tokens + history)))


WORKLOADS = (
    Workload("shared prompts"),
    Workload("private prompts", private_prompts=True, document_tokens=0, rounds=8, workflows=24),
    Workload("private, loops of one", private_prompts=True, retries=0.0, rounds=8, workflows=24),
    Workload("common head", common_tokens=300),
    Workload("growing histories", grows=True, rounds=6),
    Workload("with one-off prompts", one_offs=0.5),
    Workload("chats", grows=True, chats=True, workflows=200, one_offs=0.2),
    Workload("answers that begin alike", phrase_tokens=6),
    Workload("six documents for all", documents=6),
    Workload("nothing repeated", repeats_answers=False),
    Workload("nothing repeated, sessions", repeats_answers=False, sessions=True),
    Workload("one-off prompts only", workflows=0, one_offs=3000),
)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call as it really is. `parts` make up the prompt."""

    parts: tuple[tuple[int, ...], ...]
    answer: tuple[int, ...]
    agent: str | None
    """Its system prompt's name; None: a one-off prompt."""
    workflow: int
    role: str | None
    is_last: bool = False

    @property
    def prompt(self) -> list[int]:
        return [token for part in self.parts for token in part]


class Traffic:
    """The calls of all workflows in the order in which they come; the same for the same seed."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self.random = random.Random(seed)
        self.systems: dict[str, tuple[int, ...]] = {}
        self.common = self.tokens(workload.common_tokens)
        self.phrase = self.tokens(workload.phrase_tokens)
        documents = workload.documents or 0
        self.documents = [self.tokens(workload.document_tokens) for _ in range(documents)]

    def tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.random.randrange(100, WORDS) for _ in range(count))

    def calls(self) -> list[ModelCall]:
        made: list[ModelCall] = []
        waiting = [self.run(number) for number in range(self.workload.workflows)]
        running = [waiting.pop() for _ in range(min(CONCURRENT, len(waiting)))]
        while running:
            place = self.random.randrange(len(running))
            call = next(running[place])
            made += [call, *self.one_offs(self.workload.one_offs)]
            if call.is_last:
                running[place : place + 1] = [waiting.pop()] if waiting else []
        return made or self.one_offs(self.workload.one_offs)

    def one_offs(self, expected: float) -> list[ModelCall]:
        count = int(expected) + (self.random.random() < expected % 1)
        return [self.one_off() for _ in range(count)]

    def one_off(self) -> ModelCall:
        prompt = (tuple(TEMPLATE_HEAD), self.common, self.tokens(200))
        return ModelCall(prompt, self.tokens(self.workload.answer_tokens), None, -1, None)

    def run(self, number: int) -> Iterator[ModelCall]:
        """One workflow, call by call."""
        document = self.tokens(self.workload.document_tokens)
        if self.documents:
            document = self.random.choice(self.documents)
        said = self.tokens(10)
        histories: dict[str, tuple[tuple[int, ...], ...]] = {}
        roles = self.roles()
        for place, role in enumerate(roles):
            agent = f"{role} {number}" if self.workload.private_prompts else role
            quoted = said[1:] if self.phrase else said
            new = (*self.tokens(8), *quoted[: self.workload.quoted_tokens])
            parts = histories.get(role) or (tuple(TEMPLATE_HEAD), self.system(agent), document)
            answer = self.phrase + self.tokens(self.workload.answer_tokens)
            is_last = place == len(roles) - 1
            yield ModelCall((*parts, new), answer, agent, number, role, is_last)
            if self.workload.grows:
                histories[role] = (*parts, new, answer)
            said = answer if self.workload.repeats_answers else self.tokens(40)

    def roles(self) -> list[str]:
        if self.workload.chats:
            return ["planner"] * self.random.randint(1, 12)
        roles = []
        for _ in range(self.workload.rounds):
            roles += ["planner", "coder", "tester"]
            while self.random.random() < self.workload.retries:
                roles += ["coder", "tester"]
            roles += ["reviewer"]
        return roles

    def system(self, agent: str) -> tuple[int, ...]:
        if agent not in self.systems:
            self.systems[agent] = self.common + self.tokens(self.workload.system_tokens)
        return self.systems[agent]


def stock(calls: Sequence[ModelCall], pool_tokens: int) -> int:
    """Cached tokens of an unchanged server."""
    cache = StandaloneCache("python", pool_tokens=pool_tokens)
    return sum(cache.run(call.prompt, call.answer) for call in calls)


def hinted(calls: Sequence[ModelCall], pool_tokens: int, graph: StepGraph) -> int:
    """Cached tokens where each call has an adapter's hint."""
    cache = StandaloneCache("kvflow", pool_tokens=pool_tokens)
    cached_tokens = 0
    for seq, call in enumerate(calls):
        hint = None
        if call.role is not None:
            steps = graph.outlook([call.role], finished=[call.role]).steps
            hint = Hint(f"w{call.workflow}", Forecast(seq, steps), agent=call.role, app="team")
        cached_tokens += cache.run(call.prompt, call.answer, hint=hint)
        if call.is_last:
            cache.cache.hear(Hint(f"w{call.workflow}", Forecast(seq + 1, done=True)))
    return cached_tokens


@dataclass
class Inferred:
    """What was inferred, against what is so."""

    cached_tokens: int = 0
    agents: list[tuple[str, str | None]] = field(default_factory=list)
    """Of each call of an agent that has called before: the agent, and the inferred one."""
    first_calls: int = 0
    """Of agents, which nothing can tell apart."""
    forecasts: int = 0
    right_forecasts: int = 0
    callers: int = 0
    false_callers: int = 0
    """One-off prompts for which a forecast was made."""
    mean_us: float = 0.0

    @property
    def never_mixed(self) -> float | None:
        """The share of calls whose inferred agent stands for theirs, perhaps one of several."""
        if not self.agents:
            return None
        counts: dict[str, Counter[str]] = {}
        for agent, inferred in self.agents:
            if inferred is not None:
                counts.setdefault(inferred, Counter())[agent] += 1
        return sum(max(each.values()) for each in counts.values()) / len(self.agents)

    @property
    def told_apart(self) -> float | None:
        """The share of calls whose inferred agent is theirs and nobody else's.

        Each inferred agent stands for the agent whose calls it has most of, and each agent is
        stood for by the one that has most of its calls.
        """
        if not self.agents:
            return None
        pairs = Counter(pair for pair in self.agents if pair[1] is not None)
        best: dict[str, tuple[str, str | None]] = {}
        taken: set[str | None] = set()
        for (agent, inferred), _ in pairs.most_common():
            if agent not in best and inferred not in taken:
                best[agent] = (agent, inferred)
                taken.add(inferred)
        return sum(pairs[pair] for pair in best.values()) / len(self.agents)


def inferred(calls: Sequence[ModelCall], pool_tokens: int, *, is_named: bool) -> Inferred:
    """What inference makes of the same calls, with a session id on each or without."""
    cache = StandaloneCache("kvflow", pool_tokens=pool_tokens)
    inference = cache.cache.inferred.inference
    found = Inferred()
    understood = []
    elapsed = 0.0
    arrived = inference.arrived

    def watched(*args: Any) -> Any:
        nonlocal elapsed
        start = time.perf_counter()
        call = arrived(*args)
        elapsed += time.perf_counter() - start
        understood.append((call, inference.likely_next(call)))
        return call

    inference.arrived = watched
    for call in calls:
        session_id = f"run {call.workflow}" if is_named and call.agent is not None else None
        found.cached_tokens += cache.run(call.prompt, call.answer, session_id=session_id)
    cache.cache.tenants.anonymous.foresight.check()
    found.mean_us = 1e6 * elapsed / len(calls)
    _compare(found, calls, understood)
    return found


def _compare(found: Inferred, calls: Sequence[ModelCall], understood: Sequence[Any]) -> None:
    names: dict[str, Counter[str | None]] = {}
    seen: set[str] = set()
    for call, (inferred_call, _) in zip(calls, understood, strict=True):
        if inferred_call.agent is not None:
            names.setdefault(inferred_call.agent, Counter())[call.agent] += 1
        if call.agent is not None and call.agent in seen:
            found.agents.append((call.agent, inferred_call.agent))
        elif call.agent is not None:
            found.first_calls += 1
            seen.add(call.agent)
        found.callers += inferred_call.caller is not None
        found.false_callers += inferred_call.caller is not None and call.agent is None
    stands_for = {name: counts.most_common(1)[0][0] for name, counts in names.items()}
    last: dict[int, tuple[Any, str | None]] = {}
    for call, (inferred_call, likely) in zip(calls, understood, strict=True):
        if call.agent is None:
            continue
        before, expected = last.get(call.workflow, (None, None))
        if before is not None and before.caller is not None:
            found.forecasts += 1
            found.right_forecasts += stands_for.get(expected or "") == call.agent
        last[call.workflow] = (inferred_call, likely)


def optimum(calls: Sequence[ModelCall], pool_tokens: int) -> int:
    """Cached tokens of Belady's MIN over the parts of the prompts, which may be kept in part."""
    paths = [_path(call) for call in calls]
    next_use: dict[int, float] = {}
    uses: list[dict[int, float]] = []
    for place in reversed(range(len(paths))):
        uses.append({key: next_use.get(key, float("inf")) for key, _ in paths[place]})
        next_use.update((key, place) for key, _ in paths[place])
    uses.reverse()
    held: dict[int, int] = {}
    due: dict[int, float] = {}
    cached_tokens = 0
    for path, use in zip(paths, uses, strict=True):
        for key, tokens in path[:-1]:
            cached_tokens += held.get(key, 0)
            if held.get(key, 0) < tokens:
                break
        held.update(path)
        due.update(use)
        excess = sum(held.values()) - pool_tokens
        current = {key for key, _ in path}
        for key in sorted(held.keys() - current, key=lambda each: due[each], reverse=True):
            if excess <= 0:
                break
            given = min(excess, held[key])
            excess -= given
            held[key] -= given
            if not held[key]:
                del held[key]
    return cached_tokens


def _path(call: ModelCall) -> list[tuple[int, int]]:
    path, key = [], 0
    for part in (*call.parts, call.answer):
        key = hash((key, part))
        path.append((key, len(part)))
    return path


def measure(workload: Workload, seed: int) -> dict[str, Any]:
    """All policies over the same calls."""
    calls = Traffic(workload, seed).calls()
    pool_tokens = workload.pool_tokens
    found = inferred(calls, pool_tokens, is_named=workload.sessions)
    figures: dict[str, Any] = {
        "workload": workload.name,
        "seed": seed,
        "calls": len(calls),
        "pool_tokens": pool_tokens,
        "prompt_tokens": sum(len(call.prompt) for call in calls),
        "first_calls_of_agents": found.first_calls,
        "agents_told_apart": found.told_apart,
        "agents_not_mixed": found.never_mixed,
        "calls_with_forecast": found.callers / len(calls),
        "forecasts_of_one_offs": found.false_callers,
        "next_agent_right": found.right_forecasts / found.forecasts if found.forecasts else None,
        "stock": stock(calls, pool_tokens),
        "inferred": found.cached_tokens,
        "hinted": hinted(calls, pool_tokens, CHAT if workload.chats else GRAPH),
        "optimum": optimum(calls, pool_tokens),
        "arrival_mean_us": round(found.mean_us, 1),
    }
    gain = figures["hinted"] - figures["stock"]
    # Of nothing there is no share.
    is_gain = gain > 0.01 * figures["prompt_tokens"]
    figures["share_of_gain"] = (figures["inferred"] - figures["stock"]) / gain if is_gain else None
    return figures


def main(
    seeds: Annotated[int, typer.Option(help="Repetitions of each workload.")] = 3,
    only: Annotated[str, typer.Option(help="Workloads whose name has this in it.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Infer hints for workflows whose structure is known, and compare."""
    cases = [(each, seed) for each in WORKLOADS if only in each.name for seed in range(seeds)]
    results = [measure(*case) for case in track(cases, "inferring", console=Console(stderr=True))]
    _print(results)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=1) + "\n")


def _print(results: list[dict[str, Any]]) -> None:
    table = Table("workload", "seed", title=f"{CONCURRENT} workflows at once")
    names = (
        "calls",
        "agents",
        "unmixed",
        "forecast",
        "next",
        "stock",
        "inferred",
        "hinted",
        "optimum",
    )
    for name in (*names, "of gain", "µs"):
        table.add_column(name, justify="right")
    for each in results:
        shares = (
            "agents_told_apart",
            "agents_not_mixed",
            "calls_with_forecast",
            "next_agent_right",
        )
        tokens = ("stock", "inferred", "hinted", "optimum")
        table.add_row(
            each["workload"],
            str(each["seed"]),
            str(each["calls"]),
            *(_percent(each[name]) for name in shares),
            *(f"{each[name]:,}" for name in tokens),
            _percent(each["share_of_gain"]),
            f"{each['arrival_mean_us']:.0f}",
        )
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    typer.run(main)
