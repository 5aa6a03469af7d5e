"""What the adapter relies on inside Agent Framework 1: every such name is in this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Workflow: TypeAlias = Any
"""agent_framework's `Workflow`."""
Executor: TypeAlias = Any
"""agent_framework's `Executor`: a node of a workflow."""
Agent: TypeAlias = Any
"""agent_framework's `Agent`."""
Context: TypeAlias = Any
"""agent_framework's `InProcRunnerContext`: what a workflow's executors share in its runs."""


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes."""

    run_workflow: Seam
    drain: Seam
    execute: Seam
    run_agent: Seam


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of a workflow that belong together; an AND join, or each for itself."""

    sources: Sequence[str]
    targets: Sequence[str]
    is_join: bool
    is_certain: bool
    """Whether every message of a source goes to every target."""


def require_agent_framework() -> None:
    """ConfigurationError if Agent Framework is not installed."""
    try:
        import agent_framework  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs agent-framework-core, which is not installed: "
            "pip install 'kvflow-agents[agent-framework]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed version; ImportError if it has other classes."""
    import agent_framework
    from agent_framework._workflows._runner_context import InProcRunnerContext

    return Seams(
        run_workflow=Seam(
            agent_framework.Workflow, "_run_core", ("message", "responses"), may_take_more=True
        ),
        # The messages of a superstep are taken out; none has been delivered.
        drain=Seam(InProcRunnerContext, "drain_messages", ()),
        execute=Seam(
            agent_framework.Executor, "execute", ("message", "runner_context"), may_take_more=True
        ),
        # Agents on their own, and those that tools and executors run.
        run_agent=Seam(
            agent_framework.Agent, "run", ("messages", "stream", "session"), may_take_more=True
        ),
    )


def can_be_wrapped(subject: object) -> bool:
    """Whether something is run by itself."""
    return is_workflow(subject) or is_agent(subject)


def is_workflow(subject: object) -> bool:
    """Whether something is a workflow."""
    import agent_framework

    return isinstance(subject, agent_framework.Workflow)


def is_agent(subject: object) -> bool:
    """Whether something is an agent that calls a chat client."""
    import agent_framework

    return isinstance(subject, agent_framework.Agent)


def name_of(subject: Workflow | Agent) -> str:
    """A workflow's or an agent's name."""
    return str(subject.name or ("workflow" if is_workflow(subject) else "agent"))


def id_of(executor: Executor) -> str:
    """An executor's id, which is its agent's name unless somebody says otherwise."""
    return str(executor.id)


def executors_of(workflow: Workflow) -> Mapping[str, Executor]:
    """A workflow's executors by id."""
    executors: Mapping[str, Executor] = workflow.executors
    return executors


def start_of(workflow: Workflow) -> str:
    """Where a workflow begins."""
    return id_of(workflow.get_start_executor())


def edges_of(workflow: Workflow) -> Iterator[Edges]:
    """A workflow's edges, and those on which the framework itself sends something.

    In a handoff everyone hears of everything: those who can follow count.
    """
    for group in workflow.edge_groups:
        kind = type(group).__name__
        sources, targets = group.source_executor_ids, group.target_executor_ids
        conditions = any(getattr(edge, "condition_name", None) for edge in group.edges)
        chooses = getattr(group, "selection_func", None) is not None
        for source in sources:
            followers = getattr(workflow.executors.get(source), "_handoff_targets", None)
            if followers:
                targets = [target for target in targets if target in followers]
        yield Edges(
            list(dict.fromkeys(sources)),
            list(dict.fromkeys(targets)),
            is_join=kind == "FanInEdgeGroup",
            is_certain=not (conditions or chooses),
        )


def workflow_inside(executor: Executor) -> Workflow | None:
    """The workflow that an executor runs."""
    inner = getattr(executor, "workflow", None)
    return inner if is_workflow(inner) else None


def holds(executor: Executor, agent: Agent) -> bool:
    """Whether an executor stands for an agent, so that their calls are the same."""
    return getattr(executor, "_agent", None) is agent


def context_of(workflow: Workflow) -> Context:
    """What a workflow hands its executors when it runs them."""
    return workflow._runner.context


def asks(message: Any) -> bool:
    """Whether a message is to be acted on, not only to be remembered."""
    data = getattr(message, "data", message)
    if type(data).__name__ == "GroupChatParticipantMessage":
        return False
    return bool(getattr(data, "should_respond", True))


def certain_targets_of(workflow: Workflow) -> Mapping[str, Sequence[str]]:
    """Who gets every message that a workflow's executors send to nobody by name, by sender."""
    targets: dict[str, list[str]] = {}
    for group in edges_of(workflow):
        if group.is_certain and not group.is_join:
            for source in group.sources:
                targets.setdefault(source, []).extend(group.targets)
    return targets


def targets_asked(
    certain: Mapping[str, Sequence[str]], batches: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Who certainly gets one of some messages, by who has sent them."""
    for source, messages in batches.items():
        for message in messages:
            if not asks(message):
                continue
            if message.target_id is not None:
                yield str(message.target_id)
            else:
                yield from certain.get(source, ())


def session_of(options: Mapping[str, Any]) -> str | None:
    """The name of the conversation that an agent's run goes on with."""
    session = getattr(options.get("session"), "session_id", None)
    return None if session is None else str(session)


def has_history(messages: Any) -> bool:
    """Whether an agent's run goes on with a conversation that its caller keeps."""
    return isinstance(messages, list) and len(messages) > 1
