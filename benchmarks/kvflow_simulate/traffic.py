"""The workloads of `kvflow bench`, as the simulated engine hears them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kvflow_agents.prefix import Tokens
from kvflow_agents.trail import Clock
from kvflow_bench.workloads import Call, Stage, Workflow, Workload
from kvflow_simulate.forecasts import Hints, Teller, tellers
from kvflow_simulate.requests import CallId, Request, Traffic

# Answers are nobody's prompt: their tokens begin where those of prompts have ended.
FIRST_ANSWER_TOKEN = 1000


@dataclass(slots=True)
class _Player:
    """One live workflow: the stages to come, and how many answers the last one still lacks."""

    workflow: Workflow
    stages: Iterator[Stage]
    teller: Teller
    calls: int = 0
    unanswered: int = 0


class WorkloadTraffic(Traffic):
    """All workflows of a workload at once; each stage follows the answers of the one before.

    First those that warm up; after `count` those that count. `clock` is that of the engine.
    """

    def __init__(
        self, workload: Workload, *, hints: Hints = "absent", clock: Clock = lambda: 0.0
    ) -> None:
        workflows = workload.workflows()
        self._players = [
            _Player(workflow, workflow.stages(counted=False), teller)
            for workflow, teller in zip(workflows, tellers(hints, workflows, clock), strict=True)
        ]

    def first(self) -> Iterable[Request]:
        """The first stages of all workflows."""
        return [request for player in self._players for request in self._next_stage(player)]

    def answered(self, request: Request) -> Iterable[Request]:
        """The next stage, if this was the last answer that it waited for."""
        player = self._players[request.id.workflow]
        player.teller.answered(request.agent)
        player.unanswered -= 1
        return [] if player.unanswered else self._next_stage(player)

    def count(self) -> None:
        """From here on the counted calls."""
        for player in self._players:
            player.stages = player.workflow.stages(counted=True)

    def _next_stage(self, player: _Player) -> list[Request]:
        stage = next(player.stages, None)
        if stage is None:
            return []
        requests = []
        player.teller.begin(stage)
        for call in stage.calls:
            number = player.calls
            player.calls += 1
            requests.append(
                Request(
                    CallId(player.workflow.number, number),
                    call.agent,
                    _prompt(call),
                    _answer(player.workflow, number),
                    player.teller.hint(call.agent, number),
                    call.adapter,
                )
            )
        player.unanswered = len(requests)
        return requests


def _prompt(call: Call) -> Tokens:
    """Its tokens; what was computed with another adapter is other KV, and so has other tokens."""
    if call.adapter is None:
        return call.prompt
    first = (1 + zlib.crc32(call.adapter.encode())) << 16
    return Tokens("q", (first + token for token in call.prompt))


def _answer(workflow: Workflow, number: int) -> Tokens:
    token = FIRST_ANSWER_TOKEN + number
    return Tokens("q", [token]) * (workflow.parameters.output_tokens - 1)
