"""The conversations that the demo runs: the same for every server and every policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from langchain_openai import ChatOpenAI

import kvflow_langgraph
from demos import prebuilt_apps, team
from demos.comparison import Endpoint
from demos.langchain_recorder import Recorder
from demos.measure import CallLog

QUESTIONS = (
    "Why did lighthouses lose their keepers?",
    "Do tram lines raise the rents along them?",
    "What made the herring leave the coast?",
    "Who profits when a town buries its rivers?",
)

# How far a workflow is when the next one begins: half way through its first question.
LAG_CALLS = 7


@dataclass(frozen=True, slots=True)
class Workflow:
    """One run of an app: its name, the compiled graph and its input."""

    name: str
    app: Any
    inputs: dict[str, Any]


def chat_model(endpoint: Endpoint, chat_class: type[ChatOpenAI] = ChatOpenAI) -> Any:
    """The chat model that an app is built with."""
    return chat_class(
        model=endpoint.model,
        base_url=f"{endpoint.base_url}/v1",
        api_key=endpoint.api_key,  # type: ignore[arg-type]
        temperature=0,
        max_completion_tokens=endpoint.answer_tokens,
        timeout=600,
    )


@dataclass(frozen=True, slots=True)
class Workload:
    """Named conversations: `rounds` of workflows, those of a round at once."""

    name: str
    build: Callable[[Endpoint], list[list[Workflow]]]
    calls: int
    """How many model calls it makes, for the progress bar."""

    def run(self, endpoint: Endpoint, *, hinted: bool, on_call: Callable[[], None]) -> CallLog:
        """Run all conversations, with hints or without; blocks until the last has ended."""
        log = CallLog(on_call=on_call)
        for workflows in self.build(endpoint):
            if hinted:
                servers = [endpoint.base_url]
                workflows = [
                    replace(each, app=kvflow_langgraph.wrap(each.app, base_urls=servers))
                    for each in workflows
                ]
            _run_together(workflows, log)
        return log


def _run_together(workflows: Sequence[Workflow], log: CallLog) -> None:
    """Run workflows at once, each a few calls behind the one before, as users come in."""
    before = len(log.calls)
    with ThreadPoolExecutor(len(workflows)) as pool:
        running: list[Future[None]] = []
        for index, workflow in enumerate(workflows):
            while len(log.calls) < before + index * LAG_CALLS and not any(
                each.done() for each in running
            ):
                time.sleep(0.01)
            running.append(pool.submit(_run, workflow, log))
        for each in running:
            each.result()


def _run(workflow: Workflow, log: CallLog) -> None:
    config = {"callbacks": [Recorder(workflow.name, log)], "recursion_limit": 200}
    workflow.app.invoke(workflow.inputs, config)


def shared_team(workflows: int, questions: int, words: int) -> Workload:
    """Workflows of one team at once: all use the same prompts."""

    def build(endpoint: Endpoint) -> list[list[Workflow]]:
        app = team.build(chat_model(endpoint), words=words)
        return [[Workflow(f"w{i}", app, _questions(i, questions)) for i in range(workflows)]]

    calls = workflows * questions * team.calls_per_question(len(team.REVIEWERS), revisions=1)
    return Workload("team", build, calls)


def private_teams(workflows: int, questions: int, words: int) -> Workload:
    """A team for each client, without loops: as in KVFlow's experiments no prompt is shared."""

    def build(endpoint: Endpoint) -> list[list[Workflow]]:
        return [
            [
                Workflow(
                    f"client {i}",
                    team.build(
                        chat_model(endpoint),
                        client=f"Client {i}",
                        words=words,
                        reviewers=1,
                        revisions=0,
                    ),
                    _questions(i, questions),
                )
                for i in range(workflows)
            ]
        ]

    calls = workflows * questions * team.calls_per_question(reviewers=1, revisions=0)
    return Workload("clients", build, calls)


def prebuilt(name: str, rounds: int, words: int) -> Workload:
    """One of the apps of others, run once a round."""

    def build(endpoint: Endpoint) -> list[list[Workflow]]:
        chat = chat_model(endpoint, prebuilt_apps.RoutedChat)
        app = prebuilt_apps.BUILDERS[name](chat, words)
        runs = [
            Workflow(f"{name} {i}", app, {"messages": [("user", QUESTIONS[i % len(QUESTIONS)])]})
            for i in range(rounds)
        ]
        return [[run] for run in runs]

    return Workload(name, build, rounds * prebuilt_apps.CALLS[name])


def _questions(first: int, count: int) -> dict[str, Any]:
    return {"questions": [QUESTIONS[(first + i) % len(QUESTIONS)] for i in range(count)]}
