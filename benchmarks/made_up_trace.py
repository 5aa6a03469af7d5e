"""Writes the traffic of `policy_quality.py` as a trace, for `kvflow replay`.

    python benchmarks/made_up_trace.py trace.jsonl [--workload "mixed with chat"] [--scale 2]

Prompts are `scale` times as long as there, so that they weigh something on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from policy_quality import TRAFFIC, Call, Notice, events_of


def lines_of(events: list[Call | Notice], scale: int) -> Iterator[dict[str, Any]]:
    """The lines of a trace: each token of the traffic is a block of `scale` tokens."""
    for event in events:
        line: dict[str, Any] = {"v": 1, "at_ms": round(event.at_s * 1000)}
        if event.learned is not None:  # who says nothing of itself is nobody
            line |= {"workflow": event.client, "app": "made up"}
        if isinstance(event, Notice):
            yield line | {"kind": "pause"}
            continue
        if event.learned is not None:
            line["agent"] = event.agent
        yield line | {
            "prompt_tokens": len(event.prompt) * scale,
            "output_tokens": len(event.answer),
            "hash_ids": list(event.prompt),
            "block_tokens": scale,
        }


def main(
    file: Path,
    workload: Annotated[str, typer.Option(help="One of `policy_quality.py`.")] = "mixed with chat",
    calls: Annotated[int, typer.Option(min=1)] = 1000,
    seed: int = 1,
    scale: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 2,
) -> None:
    """Write a trace of made-up agents and chats."""
    events = events_of(TRAFFIC[workload], calls, seed)
    with file.open("w") as trace:
        trace.writelines(json.dumps(line) + "\n" for line in lines_of(events, scale))


if __name__ == "__main__":
    typer.run(main)
