"""A plain loop over the OpenAI SDK, against stock SGLang and against kvflow: only base_url changes.

`python demos/openai_loop.py` starts both servers; it needs what `./scripts/demo` sets up.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import openai
import typer

from demos.comparison import Endpoint, compare_policies
from demos.measure import CallLog, CallRecord
from demos.sdk_recorder import recorded_call
from demos.team import DUTIES, handbook

TEAM = tuple(DUTIES)[:8]
QUESTIONS = (
    "Why did lighthouses lose their keepers?",
    "Do tram lines raise the rents along them?",
    "What made the herring leave the coast?",
    "Who profits when a town buries its rivers?",
    "Should a ferry be free for those who live on its island?",
    "Which trades came back when the mill became a school?",
    "How long does a street remember a flood?",
    "Can a market square do without cars in winter?",
    "What does a village lose with its last bakery?",
    "Are night trains cheaper than the hotels they replace?",
    "When is an old bridge safer than a new one?",
    "Did the canal or the railway make the town?",
)


class Client:
    """One user's team: its agents speak in turn, each told what the one before has said."""

    def __init__(self, name: str, sdk: openai.OpenAI, model: str, questions: list[str]) -> None:
        self.name = name
        self._sdk = sdk
        self._model = model
        self._questions = questions
        self._said = "nothing yet"
        self._turn = 0

    def next_turn(self, answer_tokens: int, words: int) -> CallRecord:
        """The next agent calls the model."""
        role = TEAM[self._turn % len(TEAM)]
        question = self._questions[self._turn // len(TEAM)]
        self._turn += 1
        messages: list[Any] = [
            {"role": "system", "content": handbook(role, "House rules", words)},
            {"role": "user", "content": f"{question} A colleague said: {self._said}"},
        ]
        call = recorded_call(
            self._sdk,
            self.name,
            role,
            model=self._model,
            messages=messages,
            max_tokens=answer_tokens,
        )
        self._said = call.answer
        return call


@dataclass(frozen=True, slots=True)
class Loop:
    """Two clients at once, half a round apart, in a pool for about half of the team's prompts."""

    pool_tokens: int
    answer_tokens: int
    words: int
    clients: int = 2
    rounds: int = 5
    name: str = field(default="openai loop", init=False)

    @property
    def calls(self) -> int:
        return self.clients * self.rounds * len(TEAM)

    def workloads(self, host_tier: bool) -> list[Loop]:
        return [] if host_tier else [self]

    def run(self, endpoint: Endpoint, *, hinted: bool, on_call: Callable[[], None]) -> CallLog:
        """Run all turns. Whatever the policy, the server is told nothing but the prompts."""
        log = CallLog(on_call=on_call)
        base_url = f"{endpoint.base_url}/v1"
        with (
            openai.OpenAI(base_url=base_url, api_key=endpoint.api_key, timeout=600) as sdk,
            ThreadPoolExecutor(self.clients) as pool,
        ):
            clients = [
                Client(f"client {i}", sdk, endpoint.model, list(QUESTIONS[i :: self.clients]))
                for i in range(self.clients)
            ]

            def call(client: Client) -> None:
                log.add(client.next_turn(endpoint.answer_tokens, self.words))

            turns = self.rounds * len(TEAM)
            lag = len(TEAM) // self.clients
            for turn in range(turns + lag * (self.clients - 1)):
                talking = [c for i, c in enumerate(clients) if lag * i <= turn < turns + lag * i]
                list(pool.map(call, talking))
        return log


def scale_of(model: str) -> Loop:
    """The loop for a model: a word is 1.3 tokens, of the tiny model 5.5."""
    if model == "tiny" or model.endswith("/tiny"):
        return Loop(pool_tokens=10_000, answer_tokens=16, words=320)
    return Loop(pool_tokens=2_000, answer_tokens=12, words=270)


def main(
    model: Annotated[
        str, typer.Option(help="`smollm2`, `tiny`, or the folder of a model.")
    ] = "smollm2",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Run a loop over the OpenAI SDK against stock SGLang and kvflow, and compare."""
    compare_policies(scale_of(model), model, json_file)


if __name__ == "__main__":
    typer.run(main)
