"""A town of simulated people against stock SGLang and against kvflow, with a map at the end.

    .venv/bin/python demos/town.py [--people 200] [--ticks 30] [--map town.png] [--adapters 200]

`./scripts/demo` has to have run once: it sets up what this needs, `kvflow model tiny .models/tiny`
makes the model. About a fifth of the people call it in each tick (`demos/society.py`), and the
pool holds the prompts of about a quarter. With kvflow the simulation tells how many ticks each is
from the next call (`docs/simulations.md`); the calls are the same. With `--adapters` everybody
calls with a LoRA adapter (`docs/lora.md`), and the device has slots for half of those; the
simulation says beforehand who has which.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Annotated

import openai
import typer

from demos.comparison import Demo, Endpoint, compare_policies, model_folder
from demos.measure import CallLog
from demos.sdk_recorder import recorded_call
from demos.society import Society, Turn
from demos.town_map import draw
from kvflow_agents import Simulation
from kvflow_bench.adapters import Adapters
from kvflow_bench.adapters import name as adapter_name
from kvflow_bench.arms import ServerKind
from kvflow_sglang.server_process import ServerProcess

CALLERS_AT_ONCE = 8
RESIDENT_SHARE = 0.25
# SGLang keeps no more than twice as many adapters in host memory as there are slots, if it loads
# them beside its work; what it reads again from disk has lost its KV.
SLOTS_SHARE = 0.5
# Of the tiny model, for which a character is a token.
TOKENS_PER_WORD = 5.4


@dataclass(frozen=True, slots=True)
class Town:
    """So many people for so many ticks: the scale of the demo, and its one workload."""

    people: int
    ticks: int
    words: int
    seed: int
    adapters: int = 0
    """LoRA adapters, dealt out to the people in turn; 0: the base model answers everybody."""
    answer_tokens: int = 8
    name: str = field(default="town", init=False)

    @property
    def pool_tokens(self) -> int:
        """Room for the prompts of a share of the people."""
        return int(RESIDENT_SHARE * self.people * self.words * TOKENS_PER_WORD)

    @property
    def slots(self) -> int:
        """Room for a share of the adapters, and for those of all who call at once."""
        return max(ceil(SLOTS_SHARE * self.adapters), CALLERS_AT_ONCE)

    @property
    def calls(self) -> int:
        society = self.society()
        return sum(len(turns) for _ in range(self.ticks) for turns in _live(society))

    @property
    def active_share(self) -> float:
        """Of the people, how many call in a tick."""
        return self.calls / (self.people * self.ticks)

    def workloads(self, host_tier: bool) -> list[Town]:
        return [] if host_tier else [self]

    def society(self) -> Society:
        """The people as they are before the first tick."""
        return Society(self.people, words=self.words, seed=self.seed)

    def run(self, endpoint: Endpoint, *, hinted: bool, on_call: Callable[[], None]) -> CallLog:
        """Live through all ticks; those who do not wait for each other call at once."""
        log = CallLog(on_call=on_call)
        society = self.society()
        url = f"{endpoint.base_url}/v1"
        simulation = Simulation("town", base_urls=[url], loras=self._loras()) if hinted else None
        with (
            openai.OpenAI(base_url=url, api_key=endpoint.api_key, timeout=600) as sdk,
            simulation or nullcontext(),
            ThreadPoolExecutor(CALLERS_AT_ONCE) as pool,
        ):
            models = self._models(endpoint.model)
            day = _Day(society, sdk, endpoint, models, simulation, log)
            for _ in range(self.ticks):
                turns = society.tick()
                if simulation is not None:
                    simulation.tick_with(society.distance(turns), society.people)
                list(pool.map(day.speak, turns))
                society.go_on(turns)
        return log

    def _loras(self) -> dict[str, str]:
        """The adapter of each person, if there are any."""
        people = self.society().people if self.adapters else ()
        return {person: adapter_name(at % self.adapters) for at, person in enumerate(people)}

    def _models(self, base: str) -> dict[str, str]:
        """What each person calls."""
        loras = self._loras()
        return {
            person: f"{base}:{loras[person]}" if loras else base for person in self.society().people
        }


@dataclass(frozen=True, slots=True)
class _Day:
    society: Society
    sdk: openai.OpenAI
    endpoint: Endpoint
    models: dict[str, str]
    simulation: Simulation | None
    log: CallLog

    def speak(self, turns: list[Turn]) -> None:
        """The calls of one talk, or of one decision."""
        for turn in turns:
            with self._as(turn.agent):
                messages = [
                    {"role": "system", "content": self.society.people[turn.agent].persona},
                    {"role": "user", "content": turn.reason},
                ]
                call = recorded_call(
                    self.sdk,
                    "town",
                    turn.agent,
                    model=self.models[turn.agent],
                    messages=messages,
                    max_tokens=self.endpoint.answer_tokens,
                )
            self.log.add(call)

    def _as(self, agent: str) -> AbstractContextManager[None]:
        return nullcontext() if self.simulation is None else self.simulation.agent(agent)


def _live(society: Society) -> list[list[Turn]]:
    """One tick in which nobody is asked anything."""
    turns = society.tick()
    society.go_on(turns)
    return turns


def found_shares(demo: Demo) -> dict[str, dict[str, float]]:
    """By policy and agent, the share of prompt tokens that was cached."""
    return {
        run.policy: {
            agent: figures.cached_tokens / max(figures.prompt_tokens, 1)
            for agent, figures in run.agents.items()
        }
        for run in demo.runs
    }


def adapter_hit_shares(demo: Demo) -> dict[str, float]:
    """By policy, the share of calls whose adapter was in a slot, where the server counts it."""
    return {
        run.policy: 1 - run.adapter_loads / run.calls
        for run in demo.runs
        if run.adapter_loads is not None
    }


def lora_flags(town: Town, model: Path) -> list[str]:
    """The options of one server for both policies: what stock loads, stock does not count.

    Without hints it evicts adapters as SGLang does. ConfigurationError if an adapter is missing.
    """
    held = Adapters(model, town.adapters, town.slots)
    held.check()
    kind = ServerKind(
        "town", is_stock=False, has_host_tier=False, config={"infer": False}, overlaps_loras=True
    )
    flags = ["--max-total-tokens", str(town.pool_tokens), "--enable-metrics"]
    return [*flags, "--skip-server-warmup", *kind.options({}), *held.options(kind)]


@contextmanager
def _server(town: Town, model: Path) -> Iterator[str]:
    log = Path(tempfile.mkdtemp(prefix="kvflow-town-")) / "server.log"
    print(f"Starting a server that logs to {log}")
    with ServerProcess(model, lora_flags(town, model), log=log) as server:
        yield server.base_url


def main(
    people: Annotated[int, typer.Option(help="How many live in the town.", min=2)] = 200,
    ticks: Annotated[int, typer.Option(help="How long it is watched.", min=1)] = 30,
    words: Annotated[int, typer.Option(help="Words of a persona.", min=10)] = 160,
    seed: Annotated[int, typer.Option(help="Another seed, another course.")] = 7,
    model: Annotated[str, typer.Option(help="`tiny`, or the folder of a model.")] = "tiny",
    base_url: Annotated[
        str | None, typer.Option(help="A server already running, started with --enable-metrics.")
    ] = None,
    adapters: Annotated[
        int, typer.Option(help="So many LoRA adapters, of `kvflow model tiny --adapters`.", min=0)
    ] = 0,
    map_file: Annotated[Path, typer.Option("--map", help="Where to draw the town (PNG).")] = Path(
        "town.png"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Watch a town under both policies, and compare."""
    town = Town(people, ticks, words, seed, adapters)
    print(f"{people} people, of whom {town.active_share:.0%} call in a tick; {town.calls} calls")
    own_server = adapters and base_url is None
    with _server(town, model_folder(model)) if own_server else nullcontext(base_url) as url:
        demo = compare_policies(town, model, json_file, base_url=url)
    if adapters:
        for policy, share in adapter_hit_shares(demo).items():
            print(f"{policy}: {share:.0%} of the calls found their adapter in a slot")
    society = town.society()
    for _ in range(ticks):
        _live(society)
    draw(society, found_shares(demo), map_file)
    print(f"The map is in {map_file}")


if __name__ == "__main__":
    typer.run(main)
