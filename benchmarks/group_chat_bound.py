"""How much more any policy computes than Belady's MIN where the next speaker is drawn by lot.

    python benchmarks/group_chat_bound.py [--turns 400000] [--json FILE]

One group chat of `calibration.py`: five agents with prompts of one size, room for some of them. Who
knows the chances, and nothing of the future, misses as often as the best stationary policy: found
by value iteration over who speaks and who is cached (Puterman, Markov Decision Processes, 8.5).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from calibration import group_chat
from kvflow_agents.shadow import Shadow

CLOSE = 1e-9

Chances = Mapping[str, Mapping[str, float]]
"""Of each speaker: who is next, and how likely."""
State = tuple[str, frozenset[str]]
"""Who speaks, and whose prompts are cached, the speaker's among them."""


def seen_turns(turns: int, seed: int = 1) -> list[str]:
    """Who speaks, chat after chat."""
    chance = random.Random(seed)
    speakers: list[str] = []
    while len(speakers) < turns:
        speakers += [turn.agent for step in group_chat(chance, 0.0) for turn in step]
    return speakers[:turns]


def chances_of(speakers: Sequence[str]) -> Chances:
    """How often each was followed by whom."""
    counts: dict[str, Counter[str]] = {}
    for speaker, following in pairwise(speakers):
        counts.setdefault(speaker, Counter())[following] += 1
    return {
        speaker: {agent: count / after.total() for agent, count in after.items()}
        for speaker, after in counts.items()
    }


def fewest_misses(chances: Chances, room: int) -> float:
    """The misses per turn of the best policy that knows the chances."""
    states = [
        (speaker, frozenset(cached))
        for speaker in chances
        for cached in combinations(sorted(chances), room)
        if speaker in cached
    ]
    values = dict.fromkeys(states, 0.0)
    while True:
        after = {state: _turn(state, chances, values) for state in states}
        gains = [after[state] - values[state] for state in states]
        # Half a step each time: else a chat in which all is certain would go round for ever.
        values = {state: (after[state] + values[state]) / 2 for state in states}
        if max(gains) - min(gains) < CLOSE:
            return (max(gains) + min(gains)) / 2


def _turn(state: State, chances: Chances, values: Mapping[State, float]) -> float:
    speaker, cached = state
    return sum(
        chance
        * (
            values[agent, cached]
            if agent in cached
            else 1.0 + min(values[agent, cached - {victim} | {agent}] for victim in cached)
        )
        for agent, chance in chances[speaker].items()
    )


class Misses(NamedTuple):
    """Per turn."""

    lru: float
    min: float


def misses(speakers: Sequence[str], room: int) -> Misses:
    """What recency and Belady's MIN leave, as the server counts it: a prompt is a block."""
    shadow = Shadow(room, block_tokens=1)
    shares = [shadow.see([ord(speaker)], 0) for speaker in speakers]
    return Misses(
        lru=1 - sum(each.lru for each in shares) / len(speakers),
        min=1 - sum(each.optimum for each in shares) / len(speakers),
    )


def main(
    turns: Annotated[int, typer.Option(min=1000)] = 400_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Compare LRU, the best policy without the future, and MIN."""
    speakers = seen_turns(turns)
    chances = chances_of(speakers)
    rows = [
        {"room": room, "agents": len(chances), "best": fewest_misses(chances, room)}
        | misses(speakers, room)._asdict()
        for room in range(2, len(chances))
    ]
    table = Table("room for", "LRU", "best without the future", title="Misses, over MIN's")
    for row in rows:
        parts = (row["lru"] / row["min"], row["best"] / row["min"])
        table.add_row(f"{row['room']} of {row['agents']}", *(f"{part:.2f}" for part in parts))
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
