"""What it costs a real server that somebody watches it, in paired runs: SGLang's part and ours.

Run in the server's environment: `.venv-server/bin/python benchmarks/watching_cost.py`, on a CPU; or
with `--model FOLDER --flags "--engine gpu"` on a machine that has one.

Blocks of the same load on one server, left alone and watched in several ways, each first in turn:
`scrape` reads SGLang's `/metrics` every second, `kvflow` what is ours alone (the page's
`/kvflow/view` and the list of workflows every second, and each call asks for its receipt), and
`everything` both. What the server notes in any case is in all: `observation_cost.py` has that.

The watcher and the load run on the same machine, so their own work is in the throughput. CPU time
is that of the server's processes but for schedulers, which take a core whether they work or not;
`endpoint_latency.py` has what a request costs each process of an idle server.
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
SCRAPED = ("/metrics",)
SHOWN = ("/kvflow/view?workflow=w0", "/kvflow/workflows")


@dataclass(frozen=True, slots=True)
class Watch:
    """What is read every second, and whether calls ask for their receipts."""

    paths: Sequence[str] = ()
    asks: bool = False


ALONE = "alone"
WATCHES = {
    ALONE: Watch(),
    "scrape": Watch(SCRAPED),
    "kvflow": Watch(SHOWN, asks=True),
    "everything": Watch((*SCRAPED, *SHOWN), asks=True),
}


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of calls cost."""

    calls_per_s: float
    cpu_ms_per_call: float
    """Of all processes but schedulers."""


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


def watch(base_url: str, paths: Sequence[str], is_over: threading.Event) -> None:
    """Read these every second, like a scraper and an open page, until it is over."""
    while not is_over.is_set():
        for path in paths:
            with urllib.request.urlopen(base_url + path) as answer:
                answer.read()
        is_over.wait(PERIOD_S)


def cpu_s(server: ServerProcess) -> dict[str, float]:
    """CPU time of a server's processes so far, by what each does."""
    found: dict[str, float] = {}
    for pid in server.processes():
        about, _, stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        # SGLang names all but the first; Linux keeps 15 letters. 11 fields on: user, and kernel.
        name = about.partition("sglang::")[2]
        role = {"schedul": "scheduler", "detoken": "detokenizer"}.get(name, "http")
        user, kernel = map(int, stat.split()[11:13])
        found[role] = found.get(role, 0.0) + (user + kernel) / os.sysconf("SC_CLK_TCK")
    return found


def measure(server: ServerProcess, load: Load, calls: int, workflows: int, how: Watch) -> Block:
    """One block; of a watched one the watcher has begun before and ends after it."""
    is_over = threading.Event()
    watcher = threading.Thread(target=watch, args=(server.base_url, how.paths, is_over))
    if how.paths:
        watcher.start()
    before_s, started_s = cpu_s(server), time.perf_counter()
    load.run(calls, asks=how.asks)
    took_s, after_s = time.perf_counter() - started_s, cpu_s(server)
    if how.paths:
        is_over.set()
        watcher.join()
    others_s = sum(after_s[role] - before_s[role] for role in after_s if role != "scheduler")
    return Block(calls * workflows / took_s, 1000 * others_s / (calls * workflows))


def change(watched: Sequence[Block], alone: Sequence[Block], figure: str) -> dict[str, float]:
    """By how many percent a figure is larger when watched; the geometric mean of the rounds."""
    pairs = zip(watched, alone, strict=True)
    changes = [math.log(getattr(on, figure) / getattr(off, figure)) for on, off in pairs]
    return {
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
    rounds: Annotated[int, typer.Option(min=2, help="Of one block each way.")] = 12,
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
            found: dict[str, list[Block]] = {name: [] for name in WATCHES}
            for number in range(rounds):
                first = number % len(WATCHES)
                for name in (*WATCHES, *WATCHES)[first : first + len(WATCHES)]:
                    block = measure(server, load, calls, workflows, WATCHES[name])
                    found[name].append(block)
    alone = found.pop(ALONE)
    figures = {
        "rounds": rounds,
        "calls_in_a_block": calls * workflows,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        **{
            figure: {ALONE: statistics.median(getattr(block, figure) for block in alone)}
            | {name: change(blocks, alone, figure) for name, blocks in found.items()}
            for figure in ("calls_per_s", "cpu_ms_per_call")
        },
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
