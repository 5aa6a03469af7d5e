"""What it costs a real server that somebody watches it, in paired blocks: SGLang's part and ours.

Run in the server's environment: `.venv-server/bin/python benchmarks/watching_cost.py --pin`, on a
CPU; or with `--model FOLDER --flags "--engine gpu"` on a machine that has one.

One load that never pauses, on one server that is left alone and watched in several ways, a block of
calls each. `scrape` reads SGLang's `/metrics` every second, `kvflow` what is ours alone (the page's
`/kvflow/view` and the list of workflows every second, and each call asks for its receipt), and
`everything` both. What the server notes in any case is in all: `observation_cost.py` has that.

A lap is every way once, in an order drawn by lot, and once more backwards: what drifts evenly is in
all of them alike. A change is that of a lap's two blocks against its two left alone; its interval
is Student's, of the laps.

The watcher and the load run on the same machine. `--pin` leaves one core to the scheduler alone, as
on machines that have more than two, so that their work is not in its throughput.
"""

from __future__ import annotations

import json
import math
import os
import queue
import random
import shlex
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from scipy.stats import t as student

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_sglang import model, tiny_model
from kvflow_sglang.receipt_header import HEADER
from kvflow_sglang.server_process import ServerProcess

# Room for all prefixes: what calls find is the same in every block.
FLAGS = "--engine cpu --skip-server-warmup --max-total-tokens 9000"
AGENTS = 8
PREFIX_TOKENS, TAIL_TOKENS, ANSWER_TOKENS = 200, 20, 8
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
    """What one block of calls took, for each call."""

    wall_ms: float
    scheduler_cpu_ms: float
    """It works without a pause, so this is its time for a call on a core of its own."""
    others_cpu_ms: float
    """Of the server's processes but for the scheduler."""


class Load:
    """Workflows whose agents call in turn, with a forecast each; one call at a time of each."""

    def __init__(self, base_url: str, workflows: int) -> None:
        self._base_url = base_url
        self._callers = [self._calls(f"w{each}", each) for each in range(workflows)]
        self._ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.asks = False
        """Whether calls ask for their receipts."""

    def wait(self, calls: int) -> None:
        """Until so many more have ended; raises what a call has raised."""
        for _ in range(calls):
            failed = self._ended.get()
            if failed is not None:
                raise failed

    def __enter__(self) -> Self:
        """Begin to call, without a pause."""
        self._is_over.clear()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in self._callers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, caller: Iterator[bytes]) -> None:
        try:
            while not self._is_over.is_set():
                self._call(next(caller))
                self._ended.put(None)
        except Exception as failed:
            self._ended.put(failed)

    def _call(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"} | ({HEADER: "yes"} if self.asks else {})
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


class Watcher:
    """Reads paths every second, like a scraper and an open page, until it is left."""

    def __init__(self, base_url: str, paths: Sequence[str]) -> None:
        self._urls = [base_url + path for path in paths]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        # Somewhere within the second, so that short blocks are not read more often.
        self._is_over.wait(random.uniform(0, PERIOD_S))
        while not self._is_over.is_set():
            for url in self._urls:
                with urllib.request.urlopen(url) as answer:
                    answer.read()
            self._is_over.wait(PERIOD_S)


def roles(server: ServerProcess) -> dict[int, str]:
    """What each of a server's processes does."""
    found = {}
    for pid in server.processes():
        # SGLang names all but the first; Linux keeps 15 letters.
        name = Path(f"/proc/{pid}/comm").read_text().strip().partition("sglang::")[2]
        found[pid] = {"schedul": "scheduler", "detoken": "detokenizer"}.get(name, "http")
    return found


def cpu_s(server: ServerProcess) -> dict[str, float]:
    """CPU time of a server's processes so far, by what each does."""
    found: dict[str, float] = {}
    for pid, role in roles(server).items():
        # After the name and eleven fields more: user, and kernel.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])
        found[role] = found.get(role, 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


def pin(server: ServerProcess) -> None:
    """One core for the scheduler, and the others for all else, this process included."""
    first, *others = sorted(os.sched_getaffinity(0))
    for pid, role in {**roles(server), os.getpid(): "load"}.items():
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {first} if role == "scheduler" else others)


def measure(server: ServerProcess, load: Load, calls: int, how: Watch) -> Block:
    """One block, from one call's end to another's; the calls at its edges are watched in part."""
    load.asks = how.asks
    with Watcher(server.base_url, how.paths):
        before_s, started_s = cpu_s(server), time.perf_counter()
        load.wait(calls)
        took_s, after_s = time.perf_counter() - started_s, cpu_s(server)
    used_s = {role: after_s[role] - before_s[role] for role in after_s}
    scheduler_s = used_s.pop("scheduler")
    return Block(*(1000 * each / calls for each in (took_s, scheduler_s, sum(used_s.values()))))


def order(ways: Sequence[str], chance: random.Random) -> list[str]:
    """Of a lap's blocks."""
    drawn = chance.sample(ways, len(ways))
    return [*drawn, *reversed(drawn)]


def change(watched: Sequence[float], alone: Sequence[float]) -> dict[str, Any]:
    """By how many percent a time is longer when watched; of one pair of times for each lap."""
    changes = [math.log(on / off) for on, off in zip(watched, alone, strict=True)]
    mean, error = statistics.mean(changes), statistics.stdev(changes) / len(changes) ** 0.5
    margin = student.ppf(0.975, len(changes) - 1) * error
    return {
        "change_percent": 100 * math.expm1(mean),
        "standard_error_percent": 100 * error,
        "interval_95_percent": [100 * math.expm1(mean + each) for each in (-margin, margin)],
    }


def figures(laps: Sequence[Mapping[str, Sequence[Block]]]) -> dict[str, Any]:
    """Each time of a call alone, and by how much it is longer when watched."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(Block)):
        times = {
            way: [sum(getattr(block, name) for block in lap[way]) for lap in laps]
            for way in laps[0]
        }
        alone = times.pop(ALONE)
        found[name] = {ALONE: statistics.median(alone) / 2}
        found[name] |= {way: change(watched, alone) for way, watched in times.items()}
    return found


def main(
    folder: Annotated[
        Path | None, typer.Option("--model", help="A model's folder; else a tiny one is made.")
    ] = None,
    flags: Annotated[str, typer.Option(help="Of `kvflow serve`.")] = FLAGS,
    workflows: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 4,
    calls: Annotated[int, typer.Option(min=1, help="In a block: some seconds.")] = 200,
    laps: Annotated[int, typer.Option(min=2, help="Of two blocks each way.")] = 10,
    ways: Annotated[list[str], typer.Option("--way", help="To watch.")] = [*WATCHES][1:],
    pins: Annotated[bool, typer.Option("--pin", help="One core for the scheduler alone.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure a watched server against the same one left alone."""
    chance = random.Random(0)
    watches = {way: WATCHES[way] for way in (ALONE, *ways)}
    found: list[dict[str, list[Block]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            folder = Path(scratch) / "tiny"
            model.make(folder, tiny_model.write)
        argv = [*shlex.split(flags), "--enable-metrics"]
        env = {"OMP_NUM_THREADS": "1"} if pins else {}
        with ServerProcess(folder, argv, log=Path(scratch) / "server.log", env=env) as server:
            if pins:
                pin(server)
            with Load(server.base_url, workflows) as load:
                load.wait(2 * AGENTS * workflows)
                for _ in range(laps):
                    found.append({way: [] for way in watches})
                    for way in order([*watches], chance):
                        found[-1][way].append(measure(server, load, calls, watches[way]))
    about = {
        "model": folder.name,
        "laps": laps,
        "calls_in_a_block": calls,
        "workflows": workflows,
        "pinned": pins,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
    text = json.dumps(about | figures(found), indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
