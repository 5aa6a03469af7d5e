"""Views as a server would answer, of workflows that go on from one question to the next."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

PREFIX_TOKENS = 2048
POOL_TOKENS = 400_000


@dataclass
class Workflow:
    """One workflow: agents that run one after another, with branches."""

    name: str
    agents: list[str]
    edges: list[tuple[str, str, int]]
    front: int = 0
    done: bool = False
    tenant: str | None = None


@dataclass
class Views:
    """Answers of `/kvflow/view`; each question is one step later."""

    workflows: list[Workflow]
    server: str = "first"
    seed: int = 1
    asked: int = 0
    has_prompts: bool = True
    # Of blocks that MIN may have found besides, for all that is remembered.
    unsure_blocks: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def answer(self, query: dict[str, str]) -> dict[str, Any]:
        """What the server says, and the workflows go one step on."""
        self.asked += 1
        for each in self.workflows:
            each.front = (each.front + 1) % len(each.agents)
        offset, limit = int(query["offset"]), int(query["limit"])
        rows = [self._row(each) for each in self.workflows[offset : offset + limit]]
        wanted = query.get("tenant"), query.get("workflow")
        chosen = next((w for w in self.workflows if (w.tenant, w.name) == wanted), None)
        start, most = int(query["agents_offset"]), int(query["agents_limit"])
        view = {
            "pool": self._pool(),
            "counters": {"workflows": len(self.workflows), "agents": 12, "hints_accepted": 7},
            "optimum": self._optimum(),
            "workflows": {"total": len(self.workflows), "workflows": rows},
            "workflow": None if chosen is None else self._workflow(chosen, start, most),
        }
        return {"version": "0.0", "server": self.server, "ranks": 1, "view": view}

    def _row(self, workflow: Workflow) -> dict[str, Any]:
        calls = self.asked * 3
        return {
            "workflow": workflow.name,
            "tenant": workflow.tenant,
            "app": "app",
            "seq": calls,
            "done": workflow.done,
            "known_agents": len(workflow.agents),
            "sums": self._calls(calls) | {"accepted": calls},
            "held": {"device": 1000 * len(workflow.agents), "host": 0},
        }

    def _calls(self, calls: int) -> dict[str, int]:
        return {
            "calls": calls,
            "prompt_tokens": calls * 2300,
            "device_tokens": calls * 1500,
            "host_tokens": calls * 300,
            "lost_tokens": calls * 120,
            "prefetched_tokens": calls * 210,
            "late_tokens": calls * 40,
            "wasted_tokens": calls * 15,
            "waits": calls // 7,
            "forecast_right": calls,
            "forecast_wrong": calls // 9,
        }

    def _workflow(self, workflow: Workflow, start: int, most: int) -> dict[str, Any]:
        agents = [self._agent(workflow, place) for place in range(len(workflow.agents))]
        return {
            "workflow": workflow.name,
            "tenant": workflow.tenant,
            "app": "app",
            "done": workflow.done,
            "total": len(agents),
            "agents": agents[start : start + most],
            "edges": workflow.edges,
        }

    def _agent(self, workflow: Workflow, place: int) -> dict[str, Any]:
        steps = (place - workflow.front) % len(workflow.agents) // max(1, len(workflow.agents) // 9)
        kind = (place + self.asked // 5) % 7
        device = PREFIX_TOKENS if kind < 3 else PREFIX_TOKENS // 2 if kind == 3 else 0
        host = PREFIX_TOKENS - device if kind < 5 else 0
        loading = host // 2 if kind == 4 else 0
        prefix = {
            "device": device,
            "host": host - loading,
            "loading": loading,
            "gone": PREFIX_TOKENS - device - host,
        }
        return {
            "agent": workflow.agents[place],
            "steps": None if kind == 6 else steps,
            "due_ms": None if kind == 6 else 700 * steps,
            "chance": None if kind == 5 else 97 - kind,
            "prefix": None if place % 11 == 10 else prefix,
            **self._calls(self.asked + place % 5),
        }

    def _pool(self) -> dict[str, Any]:
        def swing(tokens: int) -> int:
            return int(tokens * (0.8 + 0.2 * self.chance.random()))

        shown = self.workflows[:8]
        tokens = [swing(240_000 // (2 + place)) for place in range(len(shown))]
        scale = min(1.0, 0.8 * POOL_TOKENS / sum(tokens))
        owners = [
            {
                "workflow": workflow.name,
                "tenant": workflow.tenant,
                "device": int(each * scale),
                "host": 9_000,
            }
            for workflow, each in zip(shown, tokens, strict=True)
        ]
        held = int(sum(tokens) * scale) + 30_000
        expected, ordinary = held // 2, held // 4
        device = {"expected": expected, "ordinary": ordinary, "spent": held - expected - ordinary}
        host = {"expected": 50_000, "ordinary": 30_000, "spent": 1_000}
        return {
            "device": {"tokens": POOL_TOKENS, "free": max(0, POOL_TOKENS - held - 9000)} | device,
            "host": {"tokens": 2 * POOL_TOKENS, "free": 2 * POOL_TOKENS - 81_000} | host,
            "loading": 2048,
            "owners": owners,
            "shared": {"device": 20_000, "host": 4_000},
            "uncounted_nodes": 0,
        }

    def _optimum(self) -> dict[str, Any] | None:
        if not self.has_prompts:
            return None
        blocks = 12_000
        best = int(blocks * (0.86 + 0.02 * self.chance.random()))
        found = int(best * (0.93 + 0.03 * self.chance.random()))
        lru = int(best * (0.55 + 0.05 * self.chance.random()))
        rate = {"rate": 0.25, "block_tokens": 64, "requests": 1024, "blocks": blocks}
        most = {"optimum_at_most": best + self.unsure_blocks}
        return rate | {"cached": found, "lru": lru, "optimum": best} | most


class Comings(Views):
    """Views of a server on which a workflow ends, and another begins, from each to the next."""

    def answer(self, query: dict[str, str]) -> dict[str, Any]:
        stays, *others = self.workflows
        self.workflows = [stays, team(f"run-{self.asked}", 5), *others[:8]]
        return super().answer(query)


def team(name: str, agents: int) -> Workflow:
    """A plan, branches that run side by side, reviews of them, and back to the plan."""
    names = [f"team/{_ROLES[each % len(_ROLES)]}-{each}" for each in range(agents)]
    edges: list[tuple[str, str, int]] = []
    for place in range(1, agents):
        edges.append((names[(place - 1) // 3], names[place], 40 - place % 30))
    edges.append((names[-1], names[0], 12))
    return Workflow(name, names, edges)


_ROLES = ("planner", "researcher", "writer", "critic", "coder", "tester", "editor")
