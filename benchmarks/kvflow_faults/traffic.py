"""Workflows of agents whose prompts recur, so that every answer is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from zlib import crc32

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint

AGENTS = 24
TAILS = 3
FIXED_TOKENS = 200
TAIL_TOKENS = 20
ANSWER_TOKENS = 4
WORKFLOW_AGENTS = 6
# Whose workflows they are: tenants, each with agents of its own, and whom nothing tells apart.
SALTS = (None, "one", "two")
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a workflow: its prompt, the hint that goes with it, and whose it is."""

    prompt: str
    hint: Hint
    salt: str | None


def prompt_of(agent: int, tail: int) -> str:
    """A fixed part of the agent's own and one of few tails; a character is a token."""
    words = "".join(f"{chr(65 + agent)}{index * 7919 % 1009} " for index in range(FIXED_TOKENS))
    return words[:FIXED_TOKENS] + f"#{agent * 31 + tail * 7:0{TAIL_TOKENS - 1}d}"


def prompts() -> list[str]:
    """Every prompt that any workflow sends."""
    return [prompt_of(agent, tail) for agent in range(AGENTS) for tail in range(TAILS)]


def salt_of(workflow: str) -> str | None:
    """Whose workflow it is."""
    return SALTS[crc32(workflow.encode()) % len(SALTS)]


def calls(workflow: str, random: Random) -> Iterator[Call]:
    """The calls of one workflow: some agents in turn, a few times over, each told ahead."""
    salt = salt_of(workflow)
    agents = random.sample(range(SALTS.index(salt), AGENTS, len(SALTS)), WORKFLOW_AGENTS)
    last = WORKFLOW_AGENTS * ROUNDS
    for turn in range(last):
        coming = {
            f"agent{agents[at % WORKFLOW_AGENTS]}": at - turn
            for at in reversed(range(turn + 1, min(turn + 1 + WORKFLOW_AGENTS, last)))
        }
        steps: dict[str, int | None] = {f"agent{agent}": None for agent in agents} | coming
        caller = agents[turn % WORKFLOW_AGENTS]
        hint = Hint(workflow, Forecast(turn, steps), agent=f"agent{caller}", app="faults")
        yield Call(prompt_of(caller, random.randrange(TAILS)), hint, salt)


def end(workflow: str) -> Hint:
    """What is told when a workflow ends."""
    return Hint(workflow, Forecast(WORKFLOW_AGENTS * ROUNDS, {}, done=True), app="faults")
