"""The whole comparison: every workload, repeat after repeat, arm after arm."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import Any

from kvflow_agents.errors import KVFlowError
from kvflow_bench import document, protocol
from kvflow_bench.adapters import Adapters
from kvflow_bench.arms import Arm, Hints, ServerKind, in_turn
from kvflow_bench.client import Client
from kvflow_bench.counters import load_back_gb_per_s
from kvflow_bench.figures import figures_of
from kvflow_bench.fleet import Fleet
from kvflow_bench.workloads import Workload

# What primes a server shares no prompt with what is measured.
PRIMING_SEED = 1_000_003


async def compare(
    workloads: Sequence[Workload],
    arms: Sequence[Arm],
    urls: Mapping[str, str],
    *,
    repeats: int,
    on_run: Callable[[dict[str, Any]], None],
) -> None:
    """Run everything, and hand each finished run over as it will stand in the document.

    A run that fails is handed over with its `error`; the others go on.
    """
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client(url)) for name, url in urls.items()}
        for workload in workloads:
            primed: set[str] = set()
            for repeat in range(repeats):
                for arm in in_turn(arms, repeat):
                    client = clients[arm.server]
                    entry = _entry(workload, arm, repeat)
                    try:
                        if arm.server not in primed:
                            await prime(client, workload)
                            primed.add(arm.server)
                        name = f"bench-{os.getpid()}/{workload.name}/{arm.name}/{repeat}"
                        run = await protocol.run(client, workload, arm.hints, name=name)
                    except KVFlowError as error:
                        on_run(entry | {"error": str(error)})
                    else:
                        on_run(entry | _results(run))


async def prime(client: Client, workload: Workload) -> None:
    """Let a server compile and allocate what the workload needs, with prompts of their own."""
    parameters = replace(workload.parameters, seed=PRIMING_SEED, rounds=1)
    other = replace(workload, parameters=parameters)
    await protocol.run(client, other, Hints.NONE, name="priming")


async def load_adapters(fleet: Fleet, kinds: Sequence[ServerKind], adapters: Adapters) -> None:
    """Tell the servers that were started here of the adapters they cannot hold at once."""
    for kind in kinds:
        if kind.name in fleet.started:
            async with Client(fleet.urls[kind.name]) as client:
                for name, path in adapters.left_out(kind).items():
                    await client.load_adapter(name, path)


async def servers_of(fleet: Fleet) -> dict[str, Any]:
    """How each server was started, and what it says of its own settings."""
    found: dict[str, Any] = {}
    for name, url in fleet.urls.items():
        found[name] = {"command": fleet.commands.get(name), "url": url}
        async with Client(url) as client:
            try:
                info = await client.server_info()
            except KVFlowError as error:
                found[name]["error"] = str(error)
            else:
                found[name]["settings"] = document.settings_of(info)
    return found


def _entry(workload: Workload, arm: Arm, repeat: int) -> dict[str, Any]:
    return {
        "workload": {
            "name": workload.name,
            "kind": workload.kind,
            "parameters": asdict(workload.parameters),
        },
        "arm": arm.name,
        "server": arm.server,
        "hints": arm.hints.value,
        "repeat": repeat,
        "started_at": document.now(),
    }


def _results(run: protocol.Run) -> dict[str, Any]:
    calls = protocol.columns(run.answers)
    figures = figures_of(calls, run.elapsed_s)
    figures["load_back_gb_per_s"] = load_back_gb_per_s(run.counted)
    return {"figures": figures, "counters": run.counted, "calls": calls}
