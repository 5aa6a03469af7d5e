"""Ten agents that call one after another, on a server with room for the prefixes of five."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sglang.kvflow_client import Client, Completion, Run

AGENTS = 10
ROOM = 5
PREFIX_TOKENS = 600
TAIL_TOKENS = 20
ROUNDS = 4
# Room for the prefixes of five agents, and for what one call adds to its own.
POOL_TOKENS = ROOM * PREFIX_TOKENS + 100
FLAGS = (
    *("--engine", "cpu"),
    "--skip-server-warmup",
    # An idle scheduler takes a whole core otherwise.
    "--sleep-on-idle",
    *("--max-total-tokens", str(POOL_TOKENS)),
)


def prompt_of(agent: int, call: int) -> str:
    """A fixed part of its own, then a tail that differs with every call."""
    fixed = "".join(f"{chr(65 + agent)}{index * 7919 % 1009} " for index in range(200))
    return fixed[:PREFIX_TOKENS] + f"#{call:03d}{agent * 31 + call:016d}"


def call_in_turn(client: Client, run: Run | None) -> list[Completion]:
    """All agents call one after another, round by round; with a run they tell who is next."""
    client.flush()
    answers = []
    for call in range(ROUNDS * AGENTS):
        params = None
        if run is not None:
            steps = {f"agent{each}": (each - call) % AGENTS for each in range(AGENTS)}
            params = run.params(steps, f"agent{call % AGENTS}")
        answers.append(client.complete(prompt_of(call % AGENTS, call), custom_params=params))
    return answers


def belady_hits(calls: Sequence[int], room: int) -> int:
    """How many calls find their prefix if whoever is needed last is evicted first."""
    held: set[int] = set()
    hits = 0
    for now, agent in enumerate(calls):
        hits += agent in held
        held.add(agent)
        if len(held) > room:
            held.remove(max(held - {agent}, key=lambda each: _next_call(calls, now, each)))
    return hits


def _next_call(calls: Sequence[int], now: int, agent: int) -> float:
    return next((at for at in range(now + 1, len(calls)) if calls[at] == agent), float("inf"))
