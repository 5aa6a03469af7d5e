"""How long `/kvflow/*` and `/metrics` take on a real CPU server that knows many agents.

Run in the server's environment: `.venv-server/bin/python benchmarks/endpoint_latency.py`.

One workflow is told of through `POST /kvflow/forecast`, in several messages of changes, each agent
with steps of its own. Then every endpoint is asked over HTTP, one request after another. The
server serves nothing else, and sleeps when idle.
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

AGENTS_IN_A_MESSAGE = 2000
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle", "--enable-metrics"),
    *("--max-total-tokens", "4000"),
)
PATHS = (
    *("/kvflow/status", "/kvflow/workflows", "/kvflow/workflows/town", "/metrics"),
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure the latency of the endpoints over HTTP."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.make(folder / "tiny", tiny_model.write)
        with ServerProcess(folder / "tiny", FLAGS, log=folder / "server.log") as server:
            tell(server.base_url, agents)
            rows = []
            for path in PATHS:
                times = [ask(server.base_url + path) for _ in range(requests)]
                p99 = statistics.quantiles(times, n=100)[98]
                row = {"path": path, "median_ms": statistics.median(times), "p99_ms": p99}
                rows.append({**row, "max_ms": max(times)})
                print(rows[-1], flush=True)
    if json_file is not None:
        about = {"agents": agents, "requests": requests, "cores": os.cpu_count()}
        figures = {**about, "load_average": os.getloadavg()[0], "paths": rows}
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
