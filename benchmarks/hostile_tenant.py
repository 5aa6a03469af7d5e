"""What one tenant's hints cost another: hit tokens on a real CPU server, and in a cache alone.

    .venv-server/bin/python benchmarks/hostile_tenant.py [--calls 150] [--json FILE]

A tenant calls with prompts of its own, another floods: a call after each of mine, with hints that
say of everything that it is needed now, and on a server forecasts besides, as fast as they are
taken. The same calls without any hint are what it is compared with. `wrong`: I tell the opposite
of what I do. Latencies are those of this machine, whatever else runs on it.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_body, encode_request
from kvflow_agents.servers import Server
from kvflow_sglang import model, tiny_model
from kvflow_sglang.server_process import ServerProcess
from kvflow_sglang.standalone import StandaloneCache

PROMPT_TOKENS = 600
POOL_TOKENS = 3100
MY_AGENTS, HOSTILE_AGENTS = 4, 8
FLOODERS = 4
FLAGS = (
    *("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle"),
    *("--max-total-tokens", str(POOL_TOKENS)),
)
ARMS = ("none", "flood", "honest and flood", "none again", "wrong")


@dataclass(frozen=True)
class Call:
    """One call, by whom and with which prompt."""

    tenant: str
    agent: int
    number: int

    @property
    def prompt(self) -> str:
        """A fixed part of the agent's own, then a tail that differs with every call."""
        fixed = "".join(f"{self.tenant[0]}{self.agent}.{at * 7919 % 1009} " for at in range(200))
        return fixed[:PROMPT_TOKENS] + f"#{self.number:06d}"


def calls_of(count: int, seed: int) -> list[Call]:
    """Mine, each followed by one of the other's; the same for every arm."""
    chance = random.Random(seed)
    calls = []
    for number in range(count):
        mine = min(int(chance.expovariate(0.8)), MY_AGENTS - 1)
        calls.append(Call("mine", mine, number))
        calls.append(Call("hostile", chance.randrange(HOSTILE_AGENTS), number))
    return calls


def hint_of(call: Call, arm: str, following: int | None, seq: int) -> Hint | None:
    """What goes with a call in this arm; `following`: the agent of my next call."""
    if call.tenant == "hostile":
        if "flood" not in arm:
            return None
        steps: dict[str, int | None] = dict.fromkeys(map(str, range(HOSTILE_AGENTS)), 0)
        forecast = Forecast(seq, steps, due_ms=dict.fromkeys(steps, 0))
        return Hint(f"flood {seq % 50}", forecast, str(call.agent))
    if arm == "wrong":
        # Whoever calls next is said never to call again.
        told = {str(each): None if each == following else 1 for each in range(MY_AGENTS)}
    elif "honest" in arm:
        told = {str(each): 1 if each == following else 4 for each in range(MY_AGENTS)}
    else:
        return None
    return Hint("mine", Forecast(seq, told), str(call.agent), "app")


def following_of(calls: list[Call], index: int) -> int | None:
    later = (call.agent for call in calls[index + 1 :] if call.tenant == "mine")
    return next(later, None)


def in_a_cache(arm: str, calls: list[Call]) -> dict[str, Any]:
    """The policy alone, without a server: exact and repeatable."""
    cache = StandaloneCache("kvflow", pool_tokens=POOL_TOKENS)
    found = {"mine": 0, "hostile": 0}
    for index, call in enumerate(calls):
        hint = hint_of(call, arm, following_of(calls, index), index + 1)
        if hint is not None:
            hint = hint._replace(tenant=call.tenant, at_ms=100 * index)
        tokens = [ord(char) for char in call.prompt]
        # Namespaces as of a salt, so that no prompt is shared by chance.
        cached = cache.run(tokens, hint=hint, extra_key=call.tenant, tenant=call.tenant)
        found[call.tenant] += cached
    return {"arm": arm, "hit_tokens": found["mine"], "hostile_hit_tokens": found["hostile"]}


class Flood:
    """Forecasts of the hostile tenant, posted as fast as the server takes them."""

    def __init__(self, server: Server) -> None:
        self.posted = 0
        self._server = server
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(each,), daemon=True)
            for each in range(FLOODERS)
        ]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, flooder: int) -> None:
        seq = 0
        steps = {f"{flooder}.{each}": 0 for each in range(200)}
        while not self._ends.is_set():
            seq += 1
            forecast = Forecast(10**9 + seq, steps, due_ms=dict.fromkeys(steps, 0))
            hint = Hint(f"flood {seq % 2000}", forecast)
            post(self._server, "/kvflow/forecast", encode_body(hint))
            self.posted += 1


def post(server: Server, path: str, body: Mapping[str, Any]) -> Any:
    """The answer to a body."""
    headers = {"Content-Type": "application/json", **server.headers()}
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.root_url + path, data, headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        text = answer.read()
    return json.loads(text) if text.startswith(b"{") else None


def on_a_server(arm: str, calls: list[Call], url: str) -> dict[str, Any]:
    """Over HTTP, each tenant by its `cache_salt`."""
    servers = {
        tenant: Server(url, cache_salt=f"salt of {tenant}") for tenant in ("mine", "hostile")
    }
    post(servers["mine"], "/flush_cache", {})
    found, latencies_ms = {"mine": 0, "hostile": 0}, []
    flood = Flood(servers["hostile"])
    if "flood" in arm:
        flood.__enter__()
    try:
        for index, call in enumerate(calls):
            server = servers[call.tenant]
            hint = hint_of(call, arm, following_of(calls, index), index + 1)
            body = {
                "model": "tiny",
                "prompt": call.prompt,
                "max_tokens": 2,
                "temperature": 0,
                "ignore_eos": True,
                "cache_salt": server.cache_salt,
            }
            if hint is not None:
                body["custom_params"] = encode_request(hint)
            started_s = time.perf_counter()
            usage = post(server, "/v1/completions", body)["usage"]
            if call.tenant == "mine":
                latencies_ms.append(1000 * (time.perf_counter() - started_s))
            found[call.tenant] += (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    finally:
        if "flood" in arm:
            flood.__exit__()
    return {
        "arm": arm,
        "hit_tokens": found["mine"],
        "hostile_hit_tokens": found["hostile"],
        "median_ms": round(statistics.median(latencies_ms), 1),
        "forecasts_posted": flood.posted,
    }


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With what is lost of the hit tokens without hints."""
    without = rows[0]["hit_tokens"]
    return [row | {"lost_share": round(1 - row["hit_tokens"] / without, 4)} for row in rows]


def main(
    calls: Annotated[int, typer.Option(min=10, help="Of mine.")] = 150,
    cache_calls: Annotated[int, typer.Option(min=10, help="Of mine, without a server.")] = 1000,
    seed: int = 1,
    server: Annotated[bool, typer.Option(help="Start a CPU server too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Measure what a hostile tenant costs another."""
    about = {"my_agents": MY_AGENTS, "hostile_agents": HOSTILE_AGENTS, "pool_tokens": POOL_TOKENS}
    document: dict[str, Any] = {**about, "calls": calls, "cache_calls": cache_calls, "seed": seed}
    alone = calls_of(cache_calls, seed)
    document["cache"] = compared([in_a_cache(arm, alone) for arm in ARMS])
    typer.echo(json.dumps(document["cache"]))
    if server:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny"
            model.make(path, tiny_model.write)
            with ServerProcess(path, list(FLAGS), log=Path(folder) / "server.log") as process:
                rows = []
                for arm in ARMS:
                    rows.append(on_a_server(arm, calls_of(calls, seed), process.base_url))
                    typer.echo(json.dumps(rows[-1]))
        document["server"] = compared(rows)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
