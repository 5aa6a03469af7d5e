"""The same agents against stock SGLang and against kvflow, side by side.

`./scripts/demo` sets everything up and runs this; `--help` lists the options.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import kvflow_langgraph
from demos.figures import RunFigures, compare_answers, figures_of, tables
from demos.measure import CallLog, ServerFigures
from demos.scale import Scale, scale_of
from demos.workloads import Endpoint, Prepare
from kvflow_sglang.server_process import ServerProcess

POLICIES = ("stock", "kvflow")
MODELS = Path(".models")


class Comparison(NamedTuple):
    """Answers that could be compared, that differ, and that differ within stock."""

    compared: int
    different: int
    within_stock: int


class Demo:
    """Runs workloads on servers, one after another, and collects what they cost."""

    def __init__(self, scale: Scale, console: Console) -> None:
        self.scale = scale
        self.console = console
        self.runs: list[RunFigures] = []
        self.logs: dict[tuple[str, str, bool], CallLog] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )

    def run_on(self, endpoint: Endpoint, policy: str, host_tier: bool, pool_tokens: int) -> None:
        """Run every workload of the scale against one server."""
        figures = ServerFigures(endpoint.base_url, endpoint.api_key)
        for workload in self.scale.workloads(host_tier):
            where = f"{workload.name}, {policy}, host tier {'on' if host_tier else 'off'}"
            task = self.progress.add_task(where, total=workload.calls)
            figures.reset()
            advance = partial(self.progress.advance, task)
            log = workload.run(endpoint, _prepare(policy, endpoint), advance)
            counted = figures.counted()
            for call in log.calls:
                figures.tokenize(call)
            self.logs[workload.name, policy, host_tier] = log
            self.runs.append(
                figures_of(
                    workload.name,
                    policy,
                    host_tier,
                    pool_tokens=pool_tokens,
                    log=log,
                    counted=counted,
                )
            )

    def compare(self) -> Comparison:
        """Answers under both policies, and of stock with and without its host tier."""
        compared = different = within_stock = 0
        for (workload, policy, host_tier), log in self.logs.items():
            if policy == "kvflow":
                same, differ = compare_answers(log, self.logs[workload, "stock", host_tier])
                compared += same
                different += differ
            elif (other := self.logs.get((workload, "stock", not host_tier))) and host_tier:
                within_stock += compare_answers(log, other)[1]
        return Comparison(compared, different, within_stock)

    def report(self, json_file: Path | None) -> None:
        """Print the tables and the check of the answers, and write the JSON."""
        found = self.compare()
        order = {(run.workload, run.host_tier): index for index, run in enumerate(self.runs)}
        runs = sorted(self.runs, key=lambda run: order[run.workload, run.host_tier])
        self.console.print(tables(runs))
        self.console.print(
            f"{found.compared - found.different} of {found.compared} answers to the same prompt "
            f"are identical under both policies; of stock with and without its host tier, "
            f"{found.within_stock} differ."
        )
        if json_file is not None:
            document = {
                "runs": [run.to_json() for run in runs],
                "compared_answers": found.compared,
                "different_answers": found.different,
                "different_answers_stock": found.within_stock,
            }
            json_file.write_text(json.dumps(document, indent=1) + "\n")


def _prepare(policy: str, endpoint: Endpoint) -> Prepare:
    if policy == "stock":
        return lambda app: app
    return lambda app: kvflow_langgraph.wrap(app, base_urls=[endpoint.base_url])


@contextmanager
def _server(
    model: Path, policy: str, host_tier: bool, pool_tokens: int, logs: Path
) -> Iterator[str]:
    flags = ["--max-total-tokens", str(pool_tokens), "--enable-metrics", "--skip-server-warmup"]
    flags += ["--stock"] if policy == "stock" else []
    flags += ["--host-tier", "--hicache-ratio", "6"] if host_tier else []
    log = logs / f"{policy}-host-{'on' if host_tier else 'off'}.log"
    with ServerProcess(model, flags, log=log) as server:
        yield server.base_url


def _run_own_servers(demo: Demo, model: Path) -> None:
    logs = Path(tempfile.mkdtemp(prefix="kvflow-demo-"))
    demo.console.print(f"Servers log to {logs}")
    for host_tier in (False, True):
        for policy in POLICIES:
            task = demo.progress.add_task(f"starting SGLang, {policy}", total=1)
            with _server(model, policy, host_tier, demo.scale.pool_tokens, logs) as base_url:
                demo.progress.update(task, completed=1, visible=False)
                endpoint = Endpoint(base_url, "demo", "none", demo.scale.answer_tokens)
                demo.run_on(endpoint, policy, host_tier, demo.scale.pool_tokens)


def _run_given_server(demo: Demo, base_url: str, api_key: str) -> None:
    """Without hints and with them, on one server that somebody else has started."""
    figures = ServerFigures(base_url.removesuffix("/v1"), api_key)
    info: dict[str, Any] = figures.server_info()
    endpoint = Endpoint(
        base_url.removesuffix("/v1"), info["served_model_name"], api_key, demo.scale.answer_tokens
    )
    for policy in POLICIES:
        host_tier = bool(info["enable_hierarchical_cache"])
        demo.run_on(endpoint, policy, host_tier, info["max_total_num_tokens"])


def main(
    model: Annotated[
        str, typer.Option(help="`smollm2`, `tiny`, or the folder of a model.")
    ] = "smollm2",
    base_url: Annotated[
        str | None, typer.Option(help="A server already running, started with --enable-metrics.")
    ] = None,
    api_key: Annotated[str, typer.Option(help="Its API key.", envvar="OPENAI_API_KEY")] = "none",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Run LangGraph teams against stock SGLang and against kvflow, and compare."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # the table does not fit the 80 that rich assumes of a file
    demo = Demo(scale_of(model), console)
    with demo.progress:
        if base_url is not None:
            _run_given_server(demo, base_url, api_key)
        else:
            folder = MODELS / model if model in ("smollm2", "tiny") else Path(model)
            _run_own_servers(demo, folder)
    demo.report(json_file)


if __name__ == "__main__":
    typer.run(main)
