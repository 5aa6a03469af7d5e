"""What the adapter relies on inside the OpenAI Agents SDK: every such name is in this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Agent: TypeAlias = Any
"""The SDK's `Agent`."""
Trace: TypeAlias = Any
"""The SDK's `Trace`: what a user's `with trace(...)` makes."""


_STREAM = ("streamed_result", "starting_agent", "run_config", "session", "run_state")


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods and functions through which every run goes."""

    run: Seam
    stream: Seam
    get_model: Seam
    finish: tuple[Seam, ...]


def require_openai_agents() -> None:
    """ConfigurationError if the SDK is not installed."""
    try:
        from agents import Runner  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs the OpenAI Agents SDK, which is not installed: "
            "pip install 'kvflow-agents[openai-agents]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed SDK; ImportError if it has other modules."""
    from agents import run
    from agents.run_internal import run_loop
    from agents.tracing.traces import NoOpTrace, TraceImpl

    return Seams(
        run=Seam(run.AgentRunner, "run", ("starting_agent", "input", "kwargs")),
        # The whole of a streamed run, in a task of its own.
        stream=Seam(run, "start_streaming", _STREAM, may_take_more=True),
        # In the task that calls the model, and later the turn's tools, right before it does.
        get_model=Seam(run_loop, "get_model", ("run_config",)),
        finish=tuple(Seam(owner, "finish", ("reset_current",)) for owner in (TraceImpl, NoOpTrace)),
    )


def is_agent(subject: object) -> bool:
    """Whether something is an agent of the SDK."""
    import agents

    return isinstance(subject, agents.Agent)


def name_of(agent: Agent) -> str:
    """An agent's name."""
    return str(agent.name)


def handoffs_of(agent: Agent) -> Iterator[tuple[str, Agent | None]]:
    """Whom an agent can hand over to, by name; None for an agent that only a function knows."""
    for handoff in agent.handoffs:
        if is_agent(handoff):
            yield name_of(handoff), handoff
        else:
            target = getattr(handoff, "_agent_ref", None)
            yield str(handoff.agent_name), None if target is None else target()


def tool_agents_of(agent: Agent) -> Iterator[Agent]:
    """The agents that an agent uses as tools, where the SDK keeps them with the tool."""
    for tool in agent.tools:
        inner = getattr(tool, "_agent_instance", None)
        if inner is not None:
            yield inner


def first_agent(starting_agent: Agent, input: Any) -> Agent:
    """Whose turn it is first: of a run that is resumed, who was interrupted."""
    return getattr(input, "_current_agent", None) or starting_agent


def conversation_of(options: Mapping[str, Any]) -> str | None:
    """The name under which a run's conversation is kept, and goes on."""
    session = getattr(options.get("session"), "session_id", None)
    group = getattr(options.get("run_config"), "group_id", None)
    name = session or group
    return None if name is None else str(name)


def has_history(input: Any) -> bool:
    """Whether a run goes on with a conversation that its caller keeps."""
    return isinstance(input, list) and len(input) > 1


def current_trace() -> Trace | None:
    """The trace in which a run begins: the user's, for that of the run itself comes later."""
    from agents.tracing import get_current_trace

    return get_current_trace()


def group_of(trace: Trace) -> str | None:
    """The conversation that a trace is part of."""
    group = getattr(trace, "group_id", None)
    return None if group is None else str(group)
