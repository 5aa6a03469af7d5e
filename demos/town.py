"""A town of simulated people against stock SGLang and against kvflow, with a map at the end.

    .venv/bin/python demos/town.py [--people 200] [--ticks 30] [--map town.png]

`./scripts/demo` has to have run once: it sets up what this needs, `kvflow model tiny .models/tiny`
makes the model. About a fifth of the people call it in each tick (`demos/society.py`), and the
pool holds the prompts of about a quarter. With kvflow the simulation tells how many ticks each is
from the next call (`docs/simulations.md`); the calls are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import openai
import typer

from demos.comparison import Demo, Endpoint, compare_policies
from demos.measure import CallLog
from demos.sdk_recorder import recorded_call
from demos.society import Society, Turn
from demos.town_map import draw
from kvflow_agents import Simulation

CALLERS_AT_ONCE = 8
RESIDENT_SHARE = 0.25
# Of the tiny model, for which a character is a token.
TOKENS_PER_WORD = 5.4


@dataclass(frozen=True, slots=True)
class Town:
    """So many people for so many ticks: the scale of the demo, and its one workload."""

    people: int
    ticks: int
    words: int
    seed: int
    answer_tokens: int = 8
    name: str = field(default="town", init=False)

    @property
    def pool_tokens(self) -> int:
        """Room for the prompts of a share of the people."""
        return int(RESIDENT_SHARE * self.people * self.words * TOKENS_PER_WORD)

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
        simulation = Simulation("town", base_urls=[url]) if hinted else None
        with (
            openai.OpenAI(base_url=url, api_key=endpoint.api_key, timeout=600) as sdk,
            simulation or nullcontext(),
            ThreadPoolExecutor(CALLERS_AT_ONCE) as pool,
        ):
            day = _Day(society, sdk, endpoint, simulation, log)
            for _ in range(self.ticks):
                turns = society.tick()
                if simulation is not None:
                    simulation.tick_with(society.distance(turns), society.people)
                list(pool.map(day.speak, turns))
                society.go_on(turns)
        return log


@dataclass(frozen=True, slots=True)
class _Day:
    society: Society
    sdk: openai.OpenAI
    endpoint: Endpoint
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
                    model=self.endpoint.model,
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


def main(
    people: Annotated[int, typer.Option(help="How many live in the town.", min=2)] = 200,
    ticks: Annotated[int, typer.Option(help="How long it is watched.", min=1)] = 30,
    words: Annotated[int, typer.Option(help="Words of a persona.", min=10)] = 160,
    seed: Annotated[int, typer.Option(help="Another seed, another course.")] = 7,
    model: Annotated[str, typer.Option(help="`tiny`, or the folder of a model.")] = "tiny",
    base_url: Annotated[
        str | None, typer.Option(help="A server already running, started with --enable-metrics.")
    ] = None,
    map_file: Annotated[Path | None, typer.Option("--map", help="Draw the town (PNG).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Watch a town under both policies, and compare."""
    town = Town(people, ticks, words, seed)
    print(f"{people} people, of whom {town.active_share:.0%} call in a tick; {town.calls} calls")
    demo = compare_policies(town, model, json_file, base_url=base_url)
    if map_file is not None:
        society = town.society()
        for _ in range(ticks):
            _live(society)
        draw(society, found_shares(demo), map_file)
        print(f"The map is in {map_file}")


if __name__ == "__main__":
    typer.run(main)
