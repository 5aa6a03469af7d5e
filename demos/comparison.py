"""The same conversations against stock SGLang and against kvflow, side by side.

What every demo shares: its servers, its progress bar, its tables and its command line. A demo
brings its workloads: `demos/research_team.py` is the shortest example.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from demos.figures import RunFigures, compare_answers, figures_of, tables
from demos.measure import CallLog, ServerFigures
from kvflow_sglang.server_process import ServerProcess

POLICIES = ("stock", "kvflow")
MODELS = Path(".models")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model server as an application knows it."""

    base_url: str
    """Its root; an OpenAI client's `base_url` is that with `/v1`."""
    model: str
    api_key: str
    answer_tokens: int


class Workload(Protocol):
    """Conversations that make the same calls on every server."""

    @property
    def name(self) -> str: ...

    @property
    def calls(self) -> int:
        """How many model calls it makes, for the progress bar."""

    def run(self, endpoint: Endpoint, *, hinted: bool, on_call: Callable[[], None]) -> CallLog:
        """Run all conversations, with hints or without; blocks until the last has ended."""


class Scale(Protocol):
    """What runs, and in a pool of how many tokens."""

    @property
    def pool_tokens(self) -> int: ...

    @property
    def answer_tokens(self) -> int: ...

    def workloads(self, host_tier: bool) -> Sequence[Workload]: ...


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
            log = workload.run(endpoint, hinted=policy == "kvflow", on_call=advance)
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
        if not demo.scale.workloads(host_tier):
            continue
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
    demo.console.print(
        "All on one server: 'stock' is that server without hints, which is stock SGLang only if "
        "it infers nothing (kvflow serve --kvflow-config '{\"infer\": false}')."
    )
    for policy in POLICIES:
        host_tier = bool(info["enable_hierarchical_cache"])
        demo.run_on(endpoint, policy, host_tier, info["max_total_num_tokens"])


def model_folder(model: str) -> Path:
    """Where a model of the command line is."""
    return MODELS / model if model in ("smollm2", "tiny") else Path(model)


def compare_policies(
    scale: Scale,
    model: str,
    json_file: Path | None,
    *,
    base_url: str | None = None,
    api_key: str = "none",
) -> Demo:
    """Run a scale's workloads under both policies and report; on own servers or a given one."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # the table does not fit the 80 that rich assumes of a file
    demo = Demo(scale, console)
    with demo.progress:
        if base_url is not None:
            _run_given_server(demo, base_url, api_key)
        else:
            _run_own_servers(demo, model_folder(model))
    demo.report(json_file)
    return demo


def command(scale_of: Callable[[str], Scale], description: str) -> Callable[..., None]:
    """A demo's command line; `scale_of` says what it runs for which model."""

    def main(
        model: Annotated[
            str, typer.Option(help="`smollm2`, `tiny`, or the folder of a model.")
        ] = "smollm2",
        base_url: Annotated[
            str | None,
            typer.Option(help="A server already running, started with --enable-metrics."),
        ] = None,
        api_key: Annotated[
            str, typer.Option(help="Its API key.", envvar="OPENAI_API_KEY")
        ] = "none",
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
    ) -> None:
        compare_policies(scale_of(model), model, json_file, base_url=base_url, api_key=api_key)

    main.__doc__ = description
    return main
