"""What `/kvflow/*` and `/metrics` take of a real CPU server that knows many agents: time and CPU.

Run in the server's environment: `.venv-server/bin/python benchmarks/endpoint_latency.py`.

It serves a few calls, so that there is something to tell. One workflow more is told of through
`POST /kvflow/forecast`, in several messages of changes, each agent with steps of its own. Then
every endpoint is asked over HTTP, one request after another, while nothing else is served and the
server sleeps when idle. CPU time is that of each of its processes. With `--stock` it is SGLang's
own server, and `/metrics` its own.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_body
from kvflow_sglang import model, tiny_model
from kvflow_sglang.server_process import ServerProcess
from watching_cost import Load, cpu_s

AGENTS_IN_A_MESSAGE = 2000
WORKFLOWS, CALLS = 4, 16
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle", "--enable-metrics"),
    *("--max-total-tokens", "4000"),
)
STOCK_PATHS = ("/health", "/metrics")
PATHS = (
    *STOCK_PATHS,
    *("/kvflow/status", "/kvflow/workflows", "/kvflow/workflows/town"),
    *("/kvflow/view?workflow=town", "/kvflow/view?workflow=town&agents_offset=9700"),
)


def tell(base_url: str, agents: int) -> None:
    """Let the server know of so many agents."""
    for seq, start in enumerate(range(0, agents, AGENTS_IN_A_MESSAGE)):
        told = range(start, min(start + AGENTS_IN_A_MESSAGE, agents))
        forecast = Forecast(seq, {f"agent{each}": each for each in told}, changes=True)
        body = json.dumps(encode_body(Hint("town", forecast))).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{base_url}/kvflow/forecast", body, headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["outcome"] == "accepted"


def ask(url: str) -> float:
    """The time of one request, in milliseconds."""
    started = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        answer.read()
    return (time.perf_counter() - started) * 1000


def main(
    agents: Annotated[int, typer.Option(min=1)] = 10_000,
    requests: Annotated[int, typer.Option(min=2, help="Of each path.")] = 100,
    stock: Annotated[bool, typer.Option("--stock", help="SGLang without kvflow.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure the latency of the endpoints over HTTP."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.make(folder / "tiny", tiny_model.write)
        flags = [*FLAGS, "--stock"] if stock else FLAGS
        with ServerProcess(folder / "tiny", flags, log=folder / "server.log") as server:
            with Load(server.base_url, WORKFLOWS) as load:
                load.wait(WORKFLOWS * CALLS)
            if not stock:
                tell(server.base_url, agents)
            rows = []
            for path in STOCK_PATHS if stock else PATHS:
                before_s = cpu_s(server)
                times = [ask(server.base_url + path) for _ in range(requests)]
                after_s = cpu_s(server)
                cpu_ms = {
                    role: 1000 * (after_s[role] - before_s[role]) / requests for role in after_s
                }
                p99 = statistics.quantiles(times, n=100)[98]
                row = {"path": path, "median_ms": statistics.median(times), "p99_ms": p99}
                rows.append({**row, "max_ms": max(times), "cpu_ms": cpu_ms})
                print(rows[-1], flush=True)
    if json_file is not None:
        about = {"agents": agents, "requests": requests, "stock": stock, "cores": os.cpu_count()}
        figures = {**about, "load_average": os.getloadavg()[0], "paths": rows}
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
