"""What it costs a real server that somebody watches all that kvflow shows, in paired runs.

Run in the server's environment: `.venv-server/bin/python benchmarks/watching_cost.py`, on a CPU; or
with `--model FOLDER --flags "--engine gpu"` on a machine that has one.

Blocks of the same load on one server, watched and left alone in turn, each first in every other
pair. Watched: `/metrics`, the page's `/kvflow/view` and the list of workflows are read every
second, and each call asks for its receipt. What the server notes in any case is in both:
`observation_cost.py` has that. The watcher runs on the same machine, so its own work is in the
throughput, but not in the CPU time of the server's processes.
"""

from __future__ import annotations

import json
import math
import os
import random
import shlex
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang import model, tiny_model
from kvflow_sglang.receipt_header import HEADER
from kvflow_sglang.server_process import ServerProcess

FLAGS = "--engine cpu --skip-server-warmup --max-total-tokens 6000"
AGENTS = 8
PREFIX_TOKENS, TAIL_TOKENS, ANSWER_TOKENS = 600, 20, 8
PERIOD_S = 1.0
WATCHED = ("/metrics", "/kvflow/view?workflow=w0", "/kvflow/workflows")


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of calls cost."""

    calls_per_s: float
    cpu_ms_per_call: float


class Load:
    """Workflows whose agents call in turn, with a forecast each; one call at a time of each."""

    def __init__(self, base_url: str, workflows: int) -> None:
        self._base_url = base_url
        self._callers = [self._calls(f"w{each}", each) for each in range(workflows)]

    def run(self, calls: int, *, asks: bool) -> None:
        """So many calls of each workflow; `asks`: for their receipts."""
        with ThreadPoolExecutor(len(self._callers)) as pool:
            list(pool.map(lambda caller: self._run(caller, calls, asks), self._callers))

    def _run(self, caller: Iterator[bytes], calls: int, asks: bool) -> None:
        headers = {"Content-Type": "application/json"} | ({HEADER: "yes"} if asks else {})
        for _, body in zip(range(calls), caller, strict=False):
            request = urllib.request.Request(f"{self._base_url}/generate", body, headers)
            with urllib.request.urlopen(request) as answer:
                answer.read()

    @staticmethod
    def _calls(workflow: str, seed: int) -> Iterator[bytes]:
        chance = random.Random(seed)
        # Tokens that every vocabulary has.
        tokens = [chance.choices(range(10, 200), k=PREFIX_TOKENS) for _ in range(AGENTS)]
        for seq in count():
            agent = seq % AGENTS
            steps = {f"a{each}": (each - agent) % AGENTS for each in range(AGENTS)}
            hint = Hint(workflow, Forecast(seq, steps), app="app", agent=f"a{agent}")
            params: dict[str, Any] = {"custom_params": encode_request(hint), "ignore_eos": True}
            params |= {"temperature": 0, "max_new_tokens": ANSWER_TOKENS}
            prompt = tokens[agent] + chance.choices(range(10, 200), k=TAIL_TOKENS)
            yield json.dumps({"input_ids": prompt, "sampling_params": params}).encode()


def watch(base_url: str, is_over: threading.Event) -> None:
    """Ask for everything every second, like a scraper and an open page, until it is over."""
    while not is_over.is_set():
        for path in WATCHED:
            with urllib.request.urlopen(base_url + path) as answer:
                answer.read()
        is_over.wait(PERIOD_S)


def cpu_s(server: ServerProcess) -> float:
    """CPU time of all of a server's processes so far."""
    stats = (Path(f"/proc/{pid}/stat").read_text() for pid in server.processes())
    # After its name: 11 fields on, its time as a user and in the kernel.
    ticks = (each.rpartition(")")[2].split()[11:13] for each in stats)
    return sum(int(user) + int(kernel) for user, kernel in ticks) / os.sysconf("SC_CLK_TCK")


def measure(server: ServerProcess, load: Load, calls: int, workflows: int, watched: bool) -> Block:
    """One block; of a watched one the watcher has begun before and ends after it."""
    is_over = threading.Event()
    watcher = threading.Thread(target=watch, args=(server.base_url, is_over))
    if watched:
        watcher.start()
    cpu_before_s, started_s = cpu_s(server), time.perf_counter()
    load.run(calls, asks=watched)
    took_s, took_cpu_s = time.perf_counter() - started_s, cpu_s(server) - cpu_before_s
    if watched:
        is_over.set()
        watcher.join()
    return Block(calls * workflows / took_s, 1000 * took_cpu_s / (calls * workflows))


def change(pairs: Sequence[tuple[Block, Block]], figure: str) -> dict[str, float]:
    """By how many percent a figure is larger when watched; the geometric mean of the pairs."""
    changes = [math.log(getattr(on, figure) / getattr(off, figure)) for on, off in pairs]
    return {
        "left_alone_median": statistics.median(getattr(off, figure) for _, off in pairs),
        "change_percent": 100 * math.expm1(statistics.mean(changes)),
        "standard_error_percent": 100 * statistics.stdev(changes) / len(changes) ** 0.5,
    }


def main(
    folder: Annotated[
        Path | None, typer.Option("--model", help="A model's folder; else a tiny one is made.")
    ] = None,
    flags: Annotated[str, typer.Option(help="Of `kvflow serve`.")] = FLAGS,
    workflows: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 4,
    calls: Annotated[int, typer.Option(min=1, help="Of each workflow in a block.")] = 40,
    pairs: Annotated[int, typer.Option(min=2)] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure a watched server against the same one left alone."""
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch) / "tiny"
            model.make(folder, tiny_model.write)
        argv = [*shlex.split(flags), "--enable-metrics"]
        with ServerProcess(folder, argv, log=Path(scratch) / "server.log") as server:
            load = Load(server.base_url, workflows)
            load.run(2 * AGENTS, asks=False)
            found: list[tuple[Block, Block]] = []
            for number in range(pairs):
                blocks = {
                    watched: measure(server, load, calls, workflows, watched)
                    for watched in ((True, False) if number % 2 else (False, True))
                }
                found.append((blocks[True], blocks[False]))
    figures = {
        "pairs": pairs,
        "calls_in_a_block": calls * workflows,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "calls_per_s": change(found, "calls_per_s"),
        "cpu_ms_per_call": change(found, "cpu_ms_per_call"),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
