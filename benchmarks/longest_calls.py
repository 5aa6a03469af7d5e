"""The longest call of each kind that a scheduler makes, with its tables filled to their limits.

    .venv-server/bin/python benchmarks/longest_calls.py --json benchmarks/results/FILE.json

Two runs show an application of so many agents; then runs of it that call nobody name all of them
until the tables are full, and after that everything happens that concerns many at once: forecasts
of all agents, heard again, in another order, no longer believed; a tenant that is disregarded and
heeded again; a run that ends; forecasts that expire; a pool that is emptied and filled again; more
tenants than are known at a time; a flush. CPU time of the calling thread, collections of garbage
apart. Needs the environment of the server.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import MAX_AGENTS, Hint, encode_request
from kvflow_agents.tenants import Tenant
from kvflow_sglang.settings import Settings
from kvflow_sglang.standalone import StandaloneCache

SYSTEM_TOKENS = 16
OWN_TOKENS = 8
# As an allocation for a prompt would evict.
EVICTED_TOKENS = 256

T = TypeVar("T")


class Longest:
    """Calls by kind: how many there were, and what the longest of them took."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.cpu_ms: dict[str, float] = {}

    def timed(self, kind: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call, and note what that took."""
        began_s = time.thread_time()
        result = call(*args, **kwargs)
        taken_ms = 1000 * (time.thread_time() - began_s)
        self.calls[kind] = self.calls.get(kind, 0) + 1
        self.cpu_ms[kind] = max(self.cpu_ms.get(kind, 0.0), taken_ms)
        return result

    def summary(self) -> dict[str, Any]:
        """As JSON has it, the longest first."""
        kinds = sorted(self.cpu_ms, key=lambda kind: -self.cpu_ms[kind])
        return {
            kind: {"calls": self.calls[kind], "longest_cpu_ms": round(self.cpu_ms[kind], 2)}
            for kind in kinds
        }


class Crowd:
    """One tenant's runs of an application with many agents, in a cache without a server."""

    def __init__(self, cache: StandaloneCache, longest: Longest, tenant: Tenant, agents: int):
        self._cache, self._longest, self._tenant = cache, longest, tenant
        self._names = [f"agent{number}" for number in range(agents)]
        self._seq, self._now_ms = count(), count(1, 10)

    def prompt(self, number: int, run: int) -> list[int]:
        """Every agent's begins alike, as the templates of a model do."""
        own = 1000 + OWN_TOKENS * number
        return [*range(SYSTEM_TOKENS), *range(own, own + OWN_TOKENS), run]

    def hint(self, run: str, steps: dict[str, int | None], **said: Any) -> Hint:
        caller = said.pop("caller", None)
        forecast = Forecast(next(self._seq), steps, **said)
        now_ms = next(self._now_ms)
        return Hint(run, forecast, caller, "app", at_ms=now_ms, tenant=self._tenant)

    def learn(self, runs: int = 2) -> None:
        """Let every agent call once in each of some runs."""
        for run in range(runs):
            for number, name in enumerate(self._names):
                hint = self.hint(f"shown {run}", {name: 1}, caller=name, changes=True)
                self.call(number, run, hint)

    def call(self, number: int, run: int, hint: Hint | None, kind: str = "a request") -> None:
        """One request, all that it makes a scheduler do."""
        self._longest.timed(
            kind,
            self._cache.run,
            self.prompt(number, run),
            hint=hint,
            extra_key=self._tenant,
            tenant=self._tenant,
        )

    def tell(self, kind: str, run: str, *, turned: bool = False, **said: Any) -> None:
        """Tell of all agents, each at a time of its own."""
        order = list(reversed(self._names)) if turned else self._names
        steps: dict[str, int | None] = {name: at for at, name in enumerate(order)}
        due_ms = {name: 60_000 + 50 * at for at, name in enumerate(order)}
        self.send(kind, self.hint(run, steps, due_ms=due_ms, **said))

    def send(self, kind: str, hint: Hint) -> None:
        """A request's hint arrives, decoded as the scheduler does it, or one without a request."""
        if hint.agent is None:
            self._longest.timed(kind, self._cache.cache.hear, hint)
            return
        params = encode_request(hint)
        arrive = self._cache.arrive
        self._longest.timed(kind, arrive, [1], custom_params=params, tenant=self._tenant)

    def wrong(self, run: str) -> None:
        """Calls that were not forecast, until the run is no longer believed."""
        for _ in range(4):
            self.tell("a forecast of all, whose run is wrong", run, turned=True, caller="agent0")

    def end(self, run: str) -> None:
        """A run of all agents ends."""
        self.send("a run of all ends", self.hint(run, {}, done=True))

    def passes(self) -> int:
        """Passes of the scheduler until nothing is left to later; how many those were."""
        for number in count():
            if not any(known.foresight.is_behind for known in self._cache.cache.tenants):
                return number
            self._longest.timed("a pass", self._cache.one_pass)
        raise AssertionError


def fill(crowd: Crowd, most_agents: int, agents: int) -> None:
    """Let runs that call nobody name all agents, until no more are remembered."""
    crowd.learn()
    for run in range(most_agents // agents + 2):
        crowd.tell("a forecast of all, of a new run", f"run {run}", caller="agent0")
        crowd.passes()


def shake(cache: StandaloneCache, crowd: Crowd, longest: Longest, tenant: Tenant) -> None:
    """All that concerns many agents at once, each followed by the passes that it takes."""
    last = "run 1"
    for turned in (False, True, False):
        crowd.tell("a forecast of all, again", last, turned=turned, caller="agent1")
        crowd.passes()
    crowd.wrong(last)
    crowd.passes()
    foresight = cache.cache.tenants.of(tenant).foresight
    for is_heeded in (False, True):
        longest.timed("a tenant is heeded, or no more", foresight.heed, is_heeded)
        crowd.passes()
    crowd.end(last)
    crowd.passes()
    # The KV goes, the claims stay and wait for it.
    while longest.timed("an eviction", cache.evict, EVICTED_TOKENS):
        pass
    for number in range(20):
        crowd.call(number, 77, None, "a request to an empty pool")
    longest.timed("forecasts expire", cache.cache.tenants.turn_over, 10**12)
    crowd.passes()
    crowd.tell("a forecast of all, after its run had expired", "run 2", caller="agent0")
    crowd.passes()


def crowd_out(cache: StandaloneCache, longest: Longest, most_tenants: int) -> None:
    """So many more tenants that all others are forgotten."""
    for number in range(most_tenants + 1):
        hint = Hint("run", Forecast(0, {"a": 1}), tenant=f"t{number}")
        longest.timed("a new tenant takes another's place", cache.cache.hear, hint)
        longest.timed("a pass", cache.one_pass)
    for _ in range(100_000):
        longest.timed("a pass", cache.one_pass)
        if not cache.cache.tenants.is_behind:
            break


def main(
    agents: Annotated[int, typer.Option(min=2, max=MAX_AGENTS, help="Of a run.")] = MAX_AGENTS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Fill the tables, and print the longest call of each kind."""
    settings = Settings()
    torch.set_num_threads(1)  # its allocator's threads are no work of a scheduler
    pool_tokens = 64 * agents
    cache = StandaloneCache("kvflow", pool_tokens=pool_tokens)
    gc.disable()
    longest = Longest()
    limits: dict[Tenant, int] = {None: settings.common_agents, "one": settings.tenant_agents}
    for tenant, most_agents in limits.items():
        crowd = Crowd(cache, longest, tenant, agents)
        fill(crowd, most_agents, agents)
        shake(cache, crowd, longest, tenant)
        typer.echo(f"{tenant}: {json.dumps(cache.cache.status())}")
    crowd_out(cache, longest, settings.most_tenants)
    longest.timed("a flush", cache.cache.reset)
    cache.allocator.clear()
    document = {"agents_of_a_run": agents, "remembered_agents": limits_by_name(limits)}
    document |= {"calls": longest.summary()}
    typer.echo(json.dumps(document, indent=1))
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def limits_by_name(limits: dict[Tenant, int]) -> dict[str, int]:
    """As JSON has it."""
    return {tenant or "everybody else": most for tenant, most in limits.items()}


if __name__ == "__main__":
    typer.run(main)
