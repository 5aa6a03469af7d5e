"""One run: a workload against one arm, from an empty cache, with a warm-up that is not counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from kvflow_agents.forecast import Forecast, Steps
from kvflow_agents.hints import Hint
from kvflow_bench import counters
from kvflow_bench.arms import Hints, told
from kvflow_bench.client import Answer, Client
from kvflow_bench.counters import Counters
from kvflow_bench.workloads import Stage, Workflow, Workload


@dataclass(frozen=True)
class Run:
    """The counted calls in order of workflow and stage, and what the server did meanwhile."""

    elapsed_s: float
    answers: list[Answer]
    counted: Counters


async def run(client: Client, workload: Workload, hints: Hints, *, name: str) -> Run:
    """Run all of the workload's workflows at once; `name` tells this run's from others'.

    The counted part begins together, when the last workflow has warmed up.
    """
    tellers = [Teller(client, workflow, hints, name) for workflow in workload.workflows()]
    await client.flush()
    await asyncio.gather(*(teller.play(counted=False) for teller in tellers))
    before = await counters.read(client)
    started_s = time.perf_counter()
    answers = await asyncio.gather(*(teller.play(counted=True) for teller in tellers))
    elapsed_s = time.perf_counter() - started_s
    after = await counters.read(client)
    await asyncio.gather(*(teller.done() for teller in tellers))
    return Run(
        elapsed_s,
        [answer for of_workflow in answers for answer in of_workflow],
        counters.difference(before, after),
    )


class Teller:
    """One live workflow, which makes its calls and says what comes next."""

    def __init__(self, client: Client, workflow: Workflow, hints: Hints, run_name: str) -> None:
        self._client = client
        self._workflow = workflow
        self._hints = hints
        self._name = f"{run_name}/{workflow.number}"
        self._app = workflow.graph.fingerprint()
        self._seq = count()

    async def play(self, *, counted: bool) -> list[Answer]:
        """Make the calls that count, or those that warm up."""
        answers: list[Answer] = []
        for stage in self._workflow.stages(counted=counted):
            answers += await self._play_stage(stage)
        return answers

    async def done(self) -> None:
        """Say that the workflow has ended."""
        if self._hints is not Hints.NONE:
            await self._client.tell(self._hint(Forecast(next(self._seq), done=True)))

    async def _play_stage(self, stage: Stage) -> Sequence[Answer]:
        output_tokens = self._workflow.parameters.output_tokens
        steps = told(self._hints, stage.steps)
        calls = [
            self._client.generate(
                call.prompt, output_tokens, self._hint_of(call.agent, steps), call.adapter
            )
            for call in stage.calls
        ]
        return await asyncio.gather(*calls)

    def _hint_of(self, agent: str, steps: Steps | None) -> Hint | None:
        return None if steps is None else self._hint(Forecast(next(self._seq), steps), agent)

    def _hint(self, forecast: Forecast, agent: str | None = None) -> Hint:
        return Hint(self._name, forecast, agent=agent, app=self._app)


def columns(answers: Sequence[Answer]) -> dict[str, list[Any]]:
    """The calls as columns of JSON values, times in milliseconds."""
    return {
        "latency_ms": [_ms(answer.latency_s) for answer in answers],
        "ttft_ms": [_ms(answer.first_token_s) for answer in answers],
        "inter_token_ms": [_ms(answer.inter_token_s) for answer in answers],
        "prompt_tokens": [answer.prompt_tokens for answer in answers],
        "device_tokens": [answer.cached_tokens - answer.host_tokens for answer in answers],
        "host_tokens": [answer.host_tokens for answer in answers],
        "output_tokens": [len(answer.output) for answer in answers],
        "output_hash": [answer.output_hash for answer in answers],
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
