"""What the adapter relies on inside CrewAI: every such name is in this module.

Tested with crewai 1.15.8 to 1.15.26.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Crew: TypeAlias = Any
"""`crewai.Crew`: agents, and the tasks that they do in order."""
Task: TypeAlias = Any
Agent: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes; each with a twin for `await`."""

    run: Seam
    arun: Seam
    copy: Seam
    do_task: Seam
    ado_task: Seam
    ask_agent: Seam
    aask_agent: Seam


def require_crewai() -> None:
    """ConfigurationError if no CrewAI is installed."""
    try:
        import crewai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs crewai, which is not installed: pip install 'kvflow-agents[crewai]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed CrewAI; ImportError if it lacks a name that is needed."""
    from crewai import Agent, Crew, Task
    from crewai.tasks.conditional_task import ConditionalTask  # noqa: F401

    return Seams(
        # All ways to kick a crew off end here, once its manager and its inputs are there.
        run=Seam(Crew, "_execute_tasks", ("tasks",), may_take_more=True),
        arun=Seam(Crew, "_aexecute_tasks", ("tasks",), may_take_more=True),
        copy=Seam(Crew, "copy", (), may_take_more=True),
        do_task=Seam(Task, "_execute_core", ("agent",), may_take_more=True),
        ado_task=Seam(Task, "_aexecute_core", ("agent",), may_take_more=True),
        # Also called by the tools with which agents delegate to one another.
        ask_agent=Seam(Agent, "execute_task", ("task",), may_take_more=True),
        aask_agent=Seam(Agent, "aexecute_task", ("task",), may_take_more=True),
    )


@cache
def _classes() -> tuple[type, type]:
    from crewai import Crew
    from crewai.tasks.conditional_task import ConditionalTask

    return Crew, ConditionalTask


def is_crew(subject: object) -> bool:
    """Whether something is a crew."""
    return isinstance(subject, _classes()[0])


def name_of(agent: Agent) -> str:
    """What an agent is called: its role."""
    return str(agent.role).strip()


def agents_of(crew: Crew) -> Sequence[Agent]:
    """A crew's agents, without its manager."""
    agents: Sequence[Agent] = crew.agents
    return agents


def tasks_of(crew: Crew) -> Sequence[Task]:
    """A crew's tasks, in their order."""
    tasks: Sequence[Task] = crew.tasks
    return tasks


def manager_of(crew: Crew) -> Agent | None:
    """Who does all tasks of a hierarchical crew; there once the crew runs."""
    return crew.manager_agent if crew.process.value == "hierarchical" else None


def agent_of(task: Task) -> Agent | None:
    """Who is to do a task."""
    return task.agent


def runs_beside(task: Task) -> bool:
    """Whether the tasks after it do not wait for a task."""
    return bool(task.async_execution)


def can_be_skipped(task: Task) -> bool:
    """Whether a condition decides over a task."""
    return isinstance(task, _classes()[1])


def can_delegate(agent: Agent) -> bool:
    """Whether an agent can ask its coworkers."""
    return bool(agent.allow_delegation)
