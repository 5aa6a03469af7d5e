"""The victims of eviction are exactly those of a brute-force reading of the design's order."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sglang.srt.mem_cache.unified_cache.components import get_and_increase_time_counter

from kvflow_agents.eviction import Rank, Standing, rank
from kvflow_agents.forecast import Forecast
from kvflow_agents.guard import Guard
from kvflow_agents.hints import Hint
from kvflow_agents.track_record import TrackRecord
from kvflow_sglang.compat.radix_cache import FULL
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import StandaloneCache


@dataclass
class Run:
    """A request: all it computed or found, and whose it was."""

    tokens: array[int]
    user: str | None
    ended_at: float = math.inf


class Reference:
    """Reads claims, users and recency off the tree and a log, with no index of any kind."""

    def __init__(self, cache: StandaloneCache) -> None:
        self.cache = cache.cache
        self.runs: list[Run] = []
        self.standings: list[Standing] = []
        tree = self.cache.tree_core
        choose = tree.first_device_victim

        def checked() -> Any:
            victim = choose()
            wanted = self.first_victim()
            assert victim is wanted, f"{self.describe(victim)} instead of {self.describe(wanted)}"
            if victim is not None:
                self.standings.append(self.standing(victim)[0])
            return victim

        tree.first_device_victim = checked

    def first_victim(self) -> Any:
        leaves = [node for node in self.nodes() if self.cache.tree_core._is_device_leaf(node)]
        by_standing: dict[Standing, list[Any]] = {each: [] for each in Standing}
        for leaf in leaves:
            by_standing[self.standing(leaf)[0]].append(leaf)

        def age(node: Any) -> float:
            last_access: float = node.last_access_time
            return last_access

        spent = min(by_standing[Standing.SPENT], key=age, default=None)
        ordinary = min(by_standing[Standing.ORDINARY], key=age, default=None)
        expected = min(
            by_standing[Standing.EXPECTED],
            key=lambda node: (-(self.standing(node)[1] or 0), age(node)),
            default=None,
        )
        if spent is not None:
            return spent
        if ordinary is None or expected is None:
            return ordinary or expected
        clips = self.expected_tokens() > self.cache.tree_core.most_expected_device_tokens
        if clips and age(expected) < age(ordinary):
            return expected
        goes = self.cache.tenants.anonymous.reuse.expected_goes(
            self.rank(ordinary), self.rank(expected)
        )
        return expected if goes else ordinary

    def rank(self, node: Any) -> Rank:
        standing, distance = self.standing(node)
        return rank(standing, distance, node.last_access_time, node.id)

    def standing(self, node: Any) -> tuple[Standing, int | None]:
        path = self.path(node)
        covering = [c for c in self.claims() if c.key.token_ids[: len(path)] == path]
        distances = [claim.distance for claim in covering if claim.distance is not None]
        if distances:
            return Standing.EXPECTED, min(distances)
        users = {
            run.user
            for run in self.runs
            if run.ended_at >= node.creation_time and run.tokens[: len(path)] == path
        }
        is_private = len(users) == 1 and None not in users
        return (Standing.ORDINARY if covering or not is_private else Standing.SPENT), None

    def expected_tokens(self) -> int:
        return sum(
            len(node.key)
            for node in self.nodes()
            if node.component_data[FULL].value is not None
            and self.standing(node)[0] is Standing.EXPECTED
        )

    def claims(self) -> Iterator[Any]:
        for workflow in self.cache.tenants.anonymous.foresight._memory:
            for agent in workflow.agents.values():
                yield from agent.claims

    def nodes(self) -> Iterator[Any]:
        stack = list(self.cache.tree_core.root_node.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def path(self, node: Any) -> array[int]:
        parts = []
        while node.parent is not None:
            parts.append(node.key.token_ids)
            node = node.parent
        return sum(reversed(parts), array("q"))

    def describe(self, node: Any) -> str:
        if node is None:
            return "nothing"
        return f"node {node.id} {self.standing(node)} used at {node.last_access_time}"


class Traffic:
    """Random workflows over shared and private prompts, and a chat that tells nothing."""

    def __init__(
        self, seed: int, cache: StandaloneCache, reference: Reference, *, has_clock: bool
    ) -> None:
        self.random = random.Random(seed)
        self.has_clock = has_clock
        self.now_ms = 0
        self.cache = cache
        self.reference = reference
        self.seq = 0
        self.systems = [self.tokens(30) for _ in range(3)]
        self.prompts = {
            (workflow, agent): self.systems[agent % 3] + self.tokens(40)
            for workflow in range(4)
            for agent in range(5)
        }
        self.generation = [0] * 4
        self.histories: dict[tuple[int, int], list[int]] = {}

    def tokens(self, count: int) -> list[int]:
        return [self.random.randrange(6) for _ in range(count)]

    def step(self) -> None:
        kind = self.random.random()
        if kind < 0.65:
            self.call()
        elif kind < 0.85:
            self.run(self.random.choice(self.systems) + self.tokens(30), None, None)
        elif kind < 0.95:
            self.hint(self.random.randrange(4), None)
        else:
            self.end(self.random.randrange(4))

    def call(self) -> None:
        workflow, agent = self.random.randrange(4), self.random.randrange(5)
        prompt = self.prompts[workflow, agent] + self.histories.get((workflow, agent), [])
        prompt += self.tokens(self.random.randrange(1, 8))
        answer = self.tokens(self.random.randrange(0, 8))
        if agent == 4 and len(prompt) < 200:  # this one keeps a history
            added = prompt[len(self.prompts[workflow, agent]) :] + answer
            self.histories[workflow, agent] = added
        self.run(prompt, self.forecast(workflow, f"a{agent}"), answer)

    def run(self, prompt: list[int], hint: Hint | None, answer: list[int] | None) -> None:
        run = Run(array("q", prompt + (answer or [])), None if hint is None else hint.workflow)
        self.reference.runs.append(run)
        self.cache.run(prompt, answer or [], hint=hint)
        run.ended_at = get_and_increase_time_counter()

    def hint(self, workflow: int, agent: str | None) -> None:
        self.cache.cache.hear(self.forecast(workflow, agent))

    def forecast(self, workflow: int, agent: str | None) -> Hint:
        self.seq += 1
        choices: list[int | None] = [None, 0, 1, 2, 3]
        steps = {
            f"a{each}": self.random.choice(choices)
            for each in range(5)
            if self.random.random() < 0.9
        }
        name = f"w{workflow}.{self.generation[workflow]}"
        self.now_ms += self.random.randrange(2000)
        due_ms = {
            each: self.random.randrange(60_000) for each in steps if self.random.random() < 0.5
        }
        chance = {each: self.random.randrange(101) for each in due_ms if self.random.random() < 0.5}
        forecast = Forecast(self.seq, steps, due_ms=due_ms, chance=chance)
        at_ms = self.now_ms if self.has_clock else None
        return Hint(name, forecast, agent=agent, app="app", at_ms=at_ms)

    def end(self, workflow: int) -> None:
        hint = self.forecast(workflow, None)
        done = Forecast(hint.forecast.seq, {}, done=True)
        self.cache.cache.hear(Hint(hint.workflow, done, app="app"))
        self.generation[workflow] += 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("order", "has_clock"), [("time", True), ("time", False), ("steps", True)])
def test_victims_are_those_of_the_reference(
    seed: int, order: str, has_clock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"order": order}))
    # Random forecasts do not come true; here they are believed all the same.
    monkeypatch.setattr(TrackRecord, "is_good", True)
    monkeypatch.setattr(Guard, "note", lambda guard, shares: False)
    cache = StandaloneCache("kvflow", pool_tokens=900)
    reference = Reference(cache)
    traffic = Traffic(seed, cache, reference, has_clock=has_clock)
    for _ in range(250):
        traffic.step()
        cache.cache.sanity_check()
        cache.cache.tenants.anonymous.foresight.check()
        tree = cache.cache.tree_core
        assert tree.expected.total().device == reference.expected_tokens()
    # Draining passes through every standing, inner nodes included.
    while (victim := cache.cache.tree_core.first_device_victim()) is not None:
        cache.evict(len(victim.key))
    assert set(reference.standings) == set(Standing)
    assert cache.allocator.available_size() == 900
