"""What one update of a simulation costs: 10,000 agents, 500 of them changed since the last tick.

Found (the tick over all distances), encoded, decoded and applied in this process, on a cache that
holds a claimed prompt of every agent; then found, encoded, sent over HTTP and applied in a real
server on this machine, until it has answered.

Run in the server's environment: `.venv-server/bin/python benchmarks/simulation_update.py`.
"""

from __future__ import annotations

import gc
import http.client
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kvflow_agents.courier import FORECAST_PATH
from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import Hint, decode_body, encode_body, encode_request
from kvflow_agents.population import Population, batches
from kvflow_sglang.doorman import now_ms
from kvflow_sglang.server_process import ServerProcess, server_python
from kvflow_sglang.standalone import StandaloneCache

SHARED = "You live in a town. "
PROMPT_TOKENS = 48
FAR_TICKS = 4096
THREADS = 16

T = TypeVar("T")
Distances = dict[str, float | None]


class Town:
    """Agents of whom `changing` move from one distance to another each tick, some to 0 and 1."""

    def __init__(self, agents: int, changing: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._changing = changing
        self._seq = count(1)
        self.distances: Distances = {f"agent {n}": self._distance() for n in range(agents)}
        self.population = Population()

    def _distance(self) -> float:
        return float(self._random.choice([0, 1, 2, 4, 8, 16, 32, 64, FAR_TICKS]))

    def advance(self) -> None:
        """The simulation's own work, which is not timed."""
        for agent in self._random.sample(list(self.distances), self._changing):
            before = self.distances[agent]
            while self.distances[agent] == before:
                self.distances[agent] = self._distance()

    def hints(self, steps: Steps) -> Iterator[Hint]:
        """The messages that tell of these steps."""
        for batch in batches(steps):
            yield Hint("town", Forecast(next(self._seq), batch, changes=True))

    def find(self) -> Steps:
        """What has changed since the last tick."""
        return self.population.tick(self.distances)

    def encode(self, steps: Steps) -> list[str]:
        """The bodies of the messages that tell of these steps."""
        return [json.dumps(encode_body(hint)) for hint in self.hints(steps)]

    def call(self, agent: str) -> Hint:
        """The hint of a call."""
        return Hint("town", Forecast(next(self._seq), {agent: 0}, changes=True), agent=agent)


def prompt_of(agent: str) -> str:
    """A prompt of its own, after what all share."""
    return (SHARED + f"You are {agent}. " * 3)[:PROMPT_TOKENS]


def timed_ms(work: Callable[..., T], *args: Any) -> tuple[float, T]:
    """How long it took, and what came out."""
    started = time.perf_counter()
    result = work(*args)
    return (time.perf_counter() - started) * 1000, result


def summary(samples: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(samples)
    return {
        "p50_ms": round(statistics.median(ordered), 3),
        "p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
        "max_ms": round(ordered[-1], 3),
    }


def in_process(town: Town, updates: int) -> dict[str, Any]:
    """Every part by itself; the cache has a host tier and so a prefetch queue in use."""
    agents = len(town.distances)
    cache = StandaloneCache("kvflow", pool_tokens=(PROMPT_TOKENS + 8) * agents, host_ratio=2.0)
    for agent in town.distances:
        cache.run(map(ord, prompt_of(agent)), hint=_stamped(town.call(agent)))
    for hint in town.hints(town.population.tick(town.distances)):
        cache.cache.hear(_stamped(hint))
    parts: dict[str, list[float]] = {each: [] for each in ("find", "encode", "decode", "apply")}
    told = 0
    gc.collect()
    for _ in range(updates):
        town.advance()
        found_ms, changes = timed_ms(town.find)
        encoded_ms, bodies = timed_ms(town.encode, changes)
        decoded_ms, hints = timed_ms(_decode, bodies)
        applied_ms, outcomes = timed_ms(_apply, cache, hints)
        assert set(outcomes) == {"accepted"}
        told += len(changes)
        for part, took in zip(parts, (found_ms, encoded_ms, decoded_ms, applied_ms), strict=True):
            parts[part].append(took)
    parts["total"] = [sum(each) for each in zip(*parts.values(), strict=True)]
    cache.cache.tenants.anonymous.foresight.check()
    return {
        "agents_with_a_claim": cache.cache.tenants.anonymous.foresight.agents,
        "agents_told_per_update": round(told / updates),
        **{part: summary(samples) for part, samples in parts.items()},
    }


def _decode(bodies: list[str]) -> list[Hint]:
    return [_stamped(decode_body(json.loads(body))) for body in bodies]


def _stamped(hint: Hint) -> Hint:
    """As the door of a server lets it pass: without the time nobody is late."""
    return hint._replace(at_ms=now_ms())


def _apply(cache: StandaloneCache, hints: list[Hint]) -> list[str]:
    return [cache.cache.hear(hint) for hint in hints]


class Line:
    """One connection to a server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def post(self, path: str, body: str) -> Any:
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)


def against_a_server(town: Town, updates: int) -> dict[str, Any]:
    """From the distances to the answer, which comes when the server's scheduler has applied it."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny"
        make = [str(server_python().with_name("kvflow")), "model", "tiny", str(model)]
        subprocess.run(make, check=True, capture_output=True)
        pool_tokens = (PROMPT_TOKENS + 8) * len(town.distances)
        flags = ["--max-total-tokens", str(pool_tokens), "--skip-server-warmup", "--host-tier"]
        flags += ["--hicache-ratio", "2", "--log-level", "error"]
        with ServerProcess(model, flags, log=Path(folder) / "server.log") as server:
            filled_ms, _ = timed_ms(fill, town, server.port)
            return {"fill_s": round(filled_ms / 1000), **measure(town, updates, server)}


def _send(town: Town, changes: Steps, line: Line) -> None:
    for body in town.encode(changes):
        line.post(FORECAST_PATH, body)


def fill(town: Town, port: int) -> None:
    """Every agent calls once."""
    agents = list(town.distances)

    def call_all(first: int) -> None:
        line = Line(port)
        for agent in agents[first::THREADS]:
            params = encode_request(town.call(agent))
            body = {"model": "tiny", "prompt": prompt_of(agent), "max_tokens": 1}
            line.post("/v1/completions", json.dumps({**body, "custom_params": params}))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(call_all, range(THREADS)))


def measure(town: Town, updates: int, server: ServerProcess) -> dict[str, Any]:
    line = Line(server.port)
    found, sent = [], []
    for number in range(updates + 1):
        town.advance()
        found_ms, changes = timed_ms(town.find)
        sent_ms, _ = timed_ms(_send, town, changes, line)
        if number:  # the first tells of everybody
            found.append(found_ms)
            sent.append(sent_ms)
    status = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    status.request("GET", "/kvflow/status")
    rank = json.loads(status.getresponse().read())["ranks"][0]
    return {
        "agents_with_a_claim": rank["agents"],
        "prefetched_tokens": rank.get("prefetched_tokens"),
        "find": summary(found),
        "encode_send_apply": summary(sent),
        "total": summary([one + other for one, other in zip(found, sent, strict=True)]),
    }


def main(
    agents: Annotated[int, typer.Option(help="How many agents.")] = 10_000,
    changing: Annotated[int, typer.Option(help="How many change in a tick.")] = 500,
    updates: Annotated[int, typer.Option(help="How many ticks are timed.")] = 200,
    with_server: Annotated[bool, typer.Option(help="Start a server and send to it too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Time updates of a simulation, in this process and against a server of its own."""
    document: dict[str, Any] = {"agents": agents, "changing": changing, "updates": updates}
    document["in_process"] = in_process(Town(agents, changing, seed=1), updates)
    if with_server:
        document["server"] = against_a_server(Town(agents, changing, seed=2), updates)
    text = json.dumps(document, indent=1)
    print(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
