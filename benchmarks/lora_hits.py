"""How often an adapter is there when a request asks for it: LRU, by forecast, and the optimum.

Calls come one at a time. Each workload is run in a model of the slots, with the server's own
policy, and where asked for (`--engine`) in a real SGLang on the CPU engine too.
"""

from __future__ import annotations

import json
import random
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.request import Request, urlopen

import typer

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, encode_request
from kvflow_agents.lora_ledger import NO_LORAS, Adapter, AdapterLedger
from kvflow_agents.lora_slots import AdapterLoad, SlotOrder, Slots, next_in
from kvflow_sglang.settings import Settings

NEVER = float("inf")
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Call:
    """One request: by whom, with what, and what the workflow expects after it."""

    agent: str
    adapter: Adapter
    steps: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Hits:
    """The share of calls that found their adapter, by policy."""

    calls: int
    lru: float
    optimum: float
    forecast: float
    told: float
    """By forecast, where hints say what agents will call with before they have."""
    prefetch: float
    told_prefetch: float
    engine: float | None = None
    engine_prefetch: float | None = None


def cyclic(*, agents: int, calls: int, with_base: bool = False) -> list[Call]:
    """Agents that call in turn, each with an adapter of its own."""
    made: list[Call] = []
    for call in range(calls):
        steps = {f"agent-{each}": (each - call) % agents for each in range(agents)}
        at = call % agents
        adapter = None if with_base and at == 0 else f"a{at}"
        made.append(Call(f"agent-{at}", adapter, steps))
    return made


def simulation(
    *, agents: int, adapters: int, calls: int, active: float = 0.2, seed: int = 0
) -> list[Call]:
    """Agents busy for a while between calls, as in ScaleSim; some `active`, some share adapters.

    The distance told is the time left of an agent's action, which only a few calls have changed.
    """
    chance = random.Random(seed)
    at = {each: chance.randrange(1, agents) for each in range(agents)}
    made: list[Call] = []
    now = 0
    while len(made) < calls:
        agent = min(at, key=lambda each: (at[each], each))
        now = max(now, at[agent])
        steps: dict[str, int | None] = {f"agent-{each}": max(at[each] - now, 0) for each in at}
        # The active ones call again soon, the others after a long action; on the whole less than
        # one call a tick, so that calls do not pile up.
        is_active = agent < active * agents
        if is_active:
            rest = chance.randrange(1, int(3 * active * agents))
        else:
            rest = chance.randrange(4 * agents, 12 * agents)
        at[agent] = now + rest
        made.append(Call(f"agent-{agent}", f"a{agent % adapters}", steps))
        now += 1
    return made


def lru_share(calls: Sequence[Call], slots: int) -> float:
    """Hits if the least recently used goes."""
    held: dict[Adapter, None] = {}
    hits = 0
    for call in calls:
        hits += call.adapter in held
        held.pop(call.adapter, None)
        held[call.adapter] = None
        if len(held) > slots:
            del held[next(iter(held))]
    return hits / len(calls)


def optimal_share(calls: Sequence[Call], slots: int) -> float:
    """Hits if whoever is needed last goes (Belady); every call needs its adapter in a slot."""
    times: dict[Adapter, list[int]] = {}
    for at, call in enumerate(calls):
        times.setdefault(call.adapter, []).append(at)

    def next_use(adapter: Adapter, now: int) -> float:
        later = times[adapter]
        index = bisect_right(later, now)
        return later[index] if index < len(later) else NEVER

    held: set[Adapter] = set()
    hits = 0
    for now, call in enumerate(calls):
        hits += call.adapter in held
        if call.adapter not in held and len(held) == slots:
            held.remove(max(held, key=lambda each: (next_use(each, now), each or "")))
        held.add(call.adapter)
    return hits / len(calls)


def loras_of(calls: Iterable[Call]) -> dict[str, str]:
    """What agents call with, as a hint says it: nothing of those that use the base model."""
    return {call.agent: call.adapter for call in calls if call.adapter is not None}


def forecast_share(
    calls: Sequence[Call],
    slots: int,
    *,
    horizon_steps: int | None,
    loras: Mapping[str, str] = NO_LORAS,
) -> float:
    """Hits by the server's policy; with a horizon one adapter is loaded ahead after each call."""
    ledger = AdapterLedger(lifetime_evictions=len(calls))
    order = SlotOrder(
        slots, lambda tenant, each: ledger.steps_of(each), expected_share=Settings().expected_share
    )
    held: set[Adapter] = set()
    hits = 0

    def bring(adapter: Adapter, in_use: frozenset[Adapter] = frozenset()) -> None:
        if len(held) == slots:
            gone = order.give_up(held - in_use, held)
            held.remove(gone)
            order.forget(gone)
        held.add(adapter)

    for call in calls:
        ledger.told("run", "app", call.steps, loras)
        ledger.called("run", "app", call.agent, call.adapter, call.steps.get(call.agent))
        hits += call.adapter in held
        if call.adapter not in held:
            bring(call.adapter)
        order.touch(call.adapter)
        if horizon_steps is None:
            continue
        in_use = frozenset({call.adapter})
        wanted = (AdapterLoad(each, ledger.steps_of(each) or 0) for each in ledger.by_nearness())
        slots_now = Slots(slots, frozenset(held), needed=in_use)
        load = next_in(wanted, slots_now, order, horizon_steps=horizon_steps)
        if load is not None:
            bring(load.adapter, in_use)
            order.touch(load.adapter)
    return hits / len(calls)


def workloads(calls: int) -> Iterator[tuple[str, list[Call]]]:
    """The workloads by name."""
    yield "cyclic 10", cyclic(agents=10, calls=calls)
    yield "cyclic 16", cyclic(agents=16, calls=calls)
    yield "cyclic 12 with the base model", cyclic(agents=12, calls=calls, with_base=True)
    yield "simulation 50, own adapters", simulation(agents=50, adapters=50, calls=calls)
    yield "simulation 100, shared by 4", simulation(agents=100, adapters=25, calls=calls, seed=1)
    yield (
        "simulation 100, all active",
        simulation(agents=100, adapters=100, calls=calls, active=1.0, seed=2),
    )


def engine_share(calls: Sequence[Call], slots: int, *, prefetch: bool) -> float:
    """Hits in a real server on the CPU engine, as its own counters tell."""
    from kvflow_sglang import model, tiny_lora, tiny_model
    from kvflow_sglang.server_process import ServerProcess

    names = sorted({call.adapter for call in calls if call.adapter is not None})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model.make(folder / "tiny", tiny_model.write)
        for number, name in enumerate(names):
            write = partial(tiny_lora.write, number=number)
            model.make(folder / name, write, config=tiny_lora.CONFIG)
        flags = [
            *("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle", "--enable-lora"),
            *("--max-loras-per-batch", str(slots)),
            # SGLang holds at most twice as many in host memory if it loads them beside its work.
            *(("--enable-lora-overlap-loading", "--max-loaded-loras", str(2 * slots)) * prefetch),
            *("--lora-paths", *(f"{name}={folder / name}" for name in names)),
        ]
        with ServerProcess(folder / "tiny", flags, log=folder / "server.log") as server:
            for seq, call in enumerate(calls):
                _ask(server.base_url, seq, call)
            with urlopen(f"{server.base_url}/kvflow/status") as answer:
                (counts,) = json.load(answer)["ranks"]
    return 1 - float(counts["lora_loads"]) / len(calls)


def _ask(base_url: str, seq: int, call: Call) -> None:
    hint = Hint("run", Forecast(seq, call.steps), agent=call.agent, app="app")
    body = {
        "model": "tiny" if call.adapter is None else f"tiny:{call.adapter}",
        "prompt": f"{call.agent}: call {seq}",
        "max_tokens": 2,
        "custom_params": encode_request(hint),
    }
    data = json.dumps(body).encode()
    request = Request(f"{base_url}/v1/completions", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        answer.read()


def measure(calls: Sequence[Call], slots: int, *, with_engine: bool) -> Hits:
    """Hits of one workload by every policy."""
    adapters = len({call.adapter for call in calls})
    loras = loras_of(calls)
    return Hits(
        calls=len(calls),
        lru=lru_share(calls, slots),
        optimum=optimal_share(calls, slots),
        forecast=forecast_share(calls, slots, horizon_steps=None),
        told=forecast_share(calls, slots, horizon_steps=None, loras=loras),
        prefetch=forecast_share(calls, slots, horizon_steps=1),
        told_prefetch=forecast_share(calls, slots, horizon_steps=1, loras=loras),
        engine=engine_share(calls, slots, prefetch=False) if with_engine else None,
        engine_prefetch=(
            engine_share(calls, slots, prefetch=True)
            if with_engine and adapters <= 2 * slots
            else None
        ),
    )


def main(
    out: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
    calls: int = 400,
    engine: Annotated[int, typer.Option(help="So many workloads also in a real server.")] = 0,
) -> None:
    """Print the hit shares, and write them."""
    figures = {}
    for number, (name, made) in enumerate(workloads(calls)):
        hits = measure(made, SLOTS, with_engine=number < engine)
        figures[name] = asdict(hits)
        typer.echo(f"{name}: {hits}")
    if out is not None:
        out.write_text(json.dumps({"slots": SLOTS, "workloads": figures}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
