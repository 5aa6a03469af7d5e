"""Small crews, one for every pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crewai import LLM, Agent, Crew, Process, Task

from tests.fake_openai import FakeOpenAI


def model(server: FakeOpenAI, **options: Any) -> LLM:
    return LLM(
        model="openai/fake", base_url=server.base_url, api_key="key", max_retries=0, **options
    )


def mark(name: str) -> str:
    """What only the prompts of this agent have in them."""
    return f"SYSTEM OF {name}."


def agent(server: FakeOpenAI, role: str, **options: Any) -> Agent:
    return Agent(
        role=role,
        goal="Answer.",
        backstory=options.pop("backstory", mark(role)),
        llm=model(server, **options.pop("model", {})),
        max_retry_limit=0,
        **options,
    )


def task(agent: Agent | None, **options: Any) -> Task:
    return Task(
        description=options.pop("description", "Say something."),
        expected_output="a word",
        agent=agent,
        **options,
    )


def line(server: FakeOpenAI, names: Sequence[str], **options: Any) -> Crew:
    agents: list[Any] = [agent(server, name, backstory="One of us.") for name in names]
    return Crew(agents=agents, tasks=[task(each) for each in agents], **options)


def branches(server: FakeOpenAI) -> Crew:
    """One, then two at once, then one that needs both."""
    plan, left, right, merge = (agent(server, name) for name in ("plan", "left", "right", "merge"))
    first = task(plan)
    both = [task(each, async_execution=True, context=[first]) for each in (left, right)]
    return Crew(
        agents=[plan, left, right, merge], tasks=[first, *both, task(merge, context=[*both])]
    )


def managed(server: FakeOpenAI) -> Crew:
    """Two agents, and a manager of their own."""
    workers: list[Any] = [agent(server, name) for name in ("writer", "editor")]
    return Crew(
        agents=workers,
        tasks=[task(None)],
        process=Process.hierarchical,
        manager_agent=agent(server, "chief"),
    )
