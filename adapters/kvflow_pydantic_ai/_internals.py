"""What the adapter relies on inside Pydantic AI: every such name is in this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Agent: TypeAlias = Any
"""Pydantic AI's `Agent`."""
AgentRun: TypeAlias = Any
"""Pydantic AI's `AgentRun`: one run, as it goes on."""

_RUN = ("user_prompt", "message_history", "conversation_id")
_HISTORY = ("message_history", "conversation_id", "conversation")


def require_pydantic_ai() -> None:
    """ConfigurationError if Pydantic AI is not installed."""
    try:
        import pydantic_ai  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs Pydantic AI, which is not installed: "
            "pip install 'kvflow-agents[pydantic-ai]'"
        ) from error


def find_seam() -> Seam:
    """Where every run goes through, synchronous and streamed ones too.

    ImportError if the installed version has other names.
    """
    from pydantic_ai import Agent
    from pydantic_ai._run_context import get_current_run_context  # noqa: F401
    from pydantic_ai.run import AgentRun

    for name in ("run_id", "conversation_id", "ctx"):
        if not hasattr(AgentRun, name):
            raise ImportError(f"AgentRun.{name} is missing")
    return Seam(Agent, "iter", _RUN, may_take_more=True)


def wrapped_agent(subject: object) -> Agent | None:
    """The agent that something is, or stands for."""
    import pydantic_ai
    from pydantic_ai.agent import WrapperAgent

    while isinstance(subject, WrapperAgent):
        subject = subject.wrapped
    return subject if isinstance(subject, pydantic_ai.Agent) else None


def is_agent(subject: object) -> bool:
    """Whether something is an agent, or stands for one."""
    return wrapped_agent(subject) is not None


def name_of(agent: Agent) -> str:
    """An agent's name; Pydantic AI takes that of a variable where none is given."""
    return str(agent.name or "agent")


def run_id_of(run: AgentRun) -> str:
    """The id of one run."""
    return str(run.run_id)


def run_id_of_request() -> str | None:
    """The id of the run for which the code at work asks a model; None in other code."""
    from pydantic_ai._run_context import get_current_run_context

    context = get_current_run_context()
    return None if context is None else context.run_id


def conversation_of(run: AgentRun) -> str:
    """The id that a run shares with those before it in its message history."""
    return str(run.conversation_id)


def goes_on(options: Mapping[str, Any]) -> bool:
    """Whether a run is part of a conversation that its caller keeps."""
    return any(options.get(name) for name in _HISTORY)


def state_of(run: AgentRun) -> object:
    """What a run's result holds: as long as that is there, its caller can go on."""
    state: object = run.ctx.state
    return state
