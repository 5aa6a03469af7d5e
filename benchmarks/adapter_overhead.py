"""What an adapter costs: its own time per model call, its memory over many runs.

    python benchmarks/adapter_overhead.py --framework autogen [--runs 10000] [--json FILE]

20 agents in a line (`benchmarks/lines.py`) call a model that is answered inside the process. Every
moment inside the adapter and the carrier is counted, the making of forecasts and hints included;
what belongs to a call is all of it since the hint of the call before. The frameworks that need
openai 2 run in the environment of their tests. The JSON has one shape for all. With `--bytecodes`
only bytecodes are counted, which other processes at work do not change.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.sdk import sdk
from lines import LINES, Run

NAMES = [f"agent{number:02}" for number in range(20)]
PACKAGES = {
    "autogen": "autogen-agentchat",
    "pydantic-ai": "pydantic-ai-slim",
    "agent-framework": "agent-framework-core",
    "llama-index": "llama-index-core",
}
"""What a framework's package is called, where it has another name."""


def _answer(message: dict[str, Any], reason: str) -> dict[str, Any]:
    return {
        "id": "0",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


CALL = {"id": "0", "type": "function", "function": {"name": "ask_all", "arguments": "{}"}}
ANSWER = _answer({"role": "assistant", "content": "ok"}, "stop")
ASKS = _answer({"role": "assistant", "content": None, "tool_calls": [CALL]}, "tool_calls")


class NoForecasts(BaseHTTPRequestHandler):
    """A server without kvflow: asked for a forecast once, and not again."""

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server(walked_mib: float) -> Iterator[str]:
    """A base URL whose model is answered inside the process, whoever calls it over httpx.

    Each answer walks through so much memory first, as an application does between its calls.
    """
    heap = [bytes(1000) for _ in range(int(walked_mib * 1024))]
    for module in filter(find_spec, ("httpx", "httpx2")):
        _answer_inside(import_module(module), heap)
    with ThreadingHTTPServer(("127.0.0.1", 0), NoForecasts) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def _answer_inside(httpx: Any, heap: Sequence[bytes]) -> None:
    def handle(transport: object, request: Any) -> Any:
        sum(each.count(b"x") for each in heap)
        body = json.loads(request.content)
        asks = bool(body.get("tools")) and body["messages"][-1]["role"] != "tool"
        return httpx.Response(200, json=ASKS if asks else ANSWER)

    async def handle_async(transport: object, request: Any) -> Any:
        return handle(transport, request)

    httpx.HTTPTransport.handle_request = handle
    httpx.AsyncHTTPTransport.handle_async_request = handle_async


class Inside:
    """Notes what goes on inside the adapter, which goes through the failsafe; not its wrappers.

    Subclasses say what they look at; what belongs to a call is all of it since the call before.
    """

    def __init__(self) -> None:
        self._is_inside = False
        self._original: Any = Failsafe.__call__

    def begin(self) -> None:
        """The adapter's own code begins."""

    def end(self) -> None:
        """It ends."""

    def next_call(self) -> None:
        """A request has its hint: what was spent on it is complete."""

    def start(self) -> None:
        original = self._original

        def watched(failsafe: Failsafe, function: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return original(failsafe, function, *args, **kwargs)
            self._is_inside = True
            self.begin()
            try:
                return original(failsafe, function, *args, **kwargs)
            finally:
                self.end()
                self._is_inside = False
                if function == sdk._attach_all:
                    self.next_call()

        self._put_in_place(watched)

    def stop(self) -> None:
        self._put_in_place(self._original)

    def _put_in_place(self, gate: Any) -> None:
        Failsafe.__call__ = gate  # type: ignore[method-assign]


class OwnTime(Inside):
    """Reading the clocks counts too: an empty function takes 0.9 us of CPU, 0.3 us of wall time."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_us: list[float] = []
        self.cpu_us: list[float] = []
        self._wall_ns = self._cpu_ns = 0

    def begin(self) -> None:
        self._cpu_ns -= time.thread_time_ns()  # a system call: outside what the wall clock sees
        self._wall_ns -= time.perf_counter_ns()

    def end(self) -> None:
        self._wall_ns += time.perf_counter_ns()
        self._cpu_ns += time.thread_time_ns()

    def next_call(self) -> None:
        self.wall_us.append(self._wall_ns / 1000)
        self.cpu_us.append(self._cpu_ns / 1000)
        self._wall_ns = self._cpu_ns = 0


class OwnBytecodes(Inside):
    """Which neither caches nor other processes change."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []
        self._count = 0

    def begin(self) -> None:
        sys.settrace(self._trace)

    def end(self) -> None:
        sys.settrace(None)

    def next_call(self) -> None:
        self.counts.append(self._count)
        self._count = 0

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        # `end` and what is after it are the watcher's.
        if frame.f_code is not OwnBytecodes.end.__code__:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self._count += event == "opcode"
            return self._trace
        return None


def adapter_of(framework: str) -> Any:
    """The package that hints a framework's runs."""
    return import_module(f"kvflow_{framework.replace('-', '_')}")


def watch_runs(own: OwnTime | OwnBytecodes, framework: str, runs: int, base_url: str) -> None:
    """Let `own` see so many runs, once the application's habits are known."""
    adapter, run = adapter_of(framework), LINES[framework](base_url, NAMES)
    adapter.instrument(base_urls=[base_url])
    for _ in range(20):
        run()
    own.start()
    for _ in range(runs):
        run()
    own.stop()
    adapter.uninstrument()


def measure_time(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Own time per call, once the applications' habits are known."""
    own = OwnTime()
    watch_runs(own, framework, runs, base_url)
    wall = statistics.quantiles(own.wall_us, n=1000)
    cpu = statistics.quantiles(own.cpu_us, n=1000)
    return {
        "calls": len(own.wall_us),
        "wall_p50_us": wall[499],
        "wall_p99_us": wall[989],
        "cpu_p50_us": cpu[499],
        "cpu_p99_us": cpu[989],
    }


def measure_bytecodes(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Own bytecodes per call, once the applications' habits are known."""
    own = OwnBytecodes()
    watch_runs(own, framework, runs, base_url)
    counts = statistics.quantiles(own.counts, n=100)
    return {"calls": len(own.counts), "p50": counts[49], "p90": counts[89], "p99": counts[98]}


def measure_run(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Whole runs, with and without in turn, so that both see the same machine."""
    adapter, run = adapter_of(framework), LINES[framework](base_url, NAMES)
    plain_ms, hinted_ms = [], []
    for _ in range(runs):
        plain_ms.append(_time_ms(run))
        adapter.instrument(base_urls=[base_url])
        hinted_ms.append(_time_ms(run))
        adapter.uninstrument()
    return {
        "plain_run_ms": statistics.median(plain_ms),
        "hinted_run_ms": statistics.median(hinted_ms),
    }


def measure_memory(framework: str, runs: int, base_url: str) -> dict[str, float]:
    """Memory allocated by our code and still alive, after half of the runs and after all."""
    adapter, run = adapter_of(framework), LINES[framework](base_url, NAMES[:3])
    adapter.instrument(base_urls=[base_url])
    run()
    tracemalloc.start()
    alive: list[float] = []
    for number in range(1, runs + 1):
        run()
        if number in (runs // 2, runs):
            alive.append(_ours_kib())
    tracemalloc.stop()
    adapter.uninstrument()
    return {"runs": runs, "half_kib": alive[0], "all_kib": alive[1]}


def _ours_kib() -> float:
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    ours = snapshot.filter_traces([tracemalloc.Filter(True, "*/kvflow_*")])
    return sum(stat.size for stat in ours.statistics("filename")) / 1024


def _time_ms(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1000


def show(result: dict[str, Any]) -> None:
    own, run, memory = result["time"], result["run"], result["memory"]
    table = Table(title=f"Adapter for {result['framework']} {result['version']}, 20 agents")
    for heading in ("measure", "value", "target"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for clock in ("wall", "cpu"):
        for percentile, target in (("p50", "< 100 us"), ("p99", "< 1000 us")):
            value = own[f"{clock}_{percentile}_us"]
            table.add_row(
                f"own {clock} time per model call, {percentile}", f"{value:.0f} us", target
            )
    table.add_row("run without, median", f"{run['plain_run_ms']:.1f} ms", "")
    table.add_row("run with, median", f"{run['hinted_run_ms']:.1f} ms", "")
    half, all_runs = int(memory["runs"] / 2), int(memory["runs"])
    table.add_row(f"memory after {half} runs", f"{memory['half_kib']:.0f} KiB", "")
    table.add_row(f"memory after {all_runs} runs", f"{memory['all_kib']:.0f} KiB", "flat")
    Console().print(table)


def show_bytecodes(result: dict[str, Any]) -> None:
    own = result["bytecodes"]
    figures = ", ".join(f"{name} {own[name]:.0f}" for name in ("p50", "p90", "p99"))
    Console().print(f"{result['framework']} {result['version']}: bytecodes per call: {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--framework", choices=LINES, default="langgraph")
    parser.add_argument("--time-runs", type=int, default=200, help="runs of the test of time")
    parser.add_argument("--runs", type=int, default=10_000, help="runs of the memory test")
    parser.add_argument("--walked-mib", type=float, default=0, help="walked between two calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    parser.add_argument(
        "--bytecodes", type=int, default=0, metavar="RUNS", help="count those of so many runs only"
    )
    options = parser.parse_args()
    framework = options.framework
    result: dict[str, Any] = {
        "framework": framework,
        "version": version(PACKAGES.get(framework, framework)),
        "python": platform.python_version(),
    }
    with server(options.walked_mib) as base_url:
        if options.bytecodes:
            result["bytecodes"] = measure_bytecodes(framework, options.bytecodes, base_url)
            show_bytecodes(result)
        else:
            result |= measured(framework, options, base_url)
            show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def measured(framework: str, options: argparse.Namespace, base_url: str) -> dict[str, Any]:
    return {
        "walked_mib": options.walked_mib,
        "time": measure_time(framework, options.time_runs, base_url),
        "run": measure_run(framework, options.time_runs // 2, base_url),
        "memory": measure_memory(framework, options.runs, base_url),
    }


if __name__ == "__main__":
    main()
