"""What the adapter relies on inside AutoGen AgentChat 0.7: every such name is in this module."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Team: TypeAlias = Any
"""autogen_agentchat's `BaseGroupChat`."""
Agent: TypeAlias = Any
"""autogen_agentchat's `BaseChatAgent`."""
Actor: TypeAlias = Any
"""autogen_core's `BaseAgent`: what holds a participant, or manages a team."""
HandlerId: TypeAlias = Any
"""autogen_core's `AgentId` of the actor whose handler is running."""

# Teams are read through private attributes, which no signature vouches for.
FIRST_UNKNOWN = (0, 8)

_RUN = ("task", "cancellation_token", "output_task_messages")
_MESSAGES = ("messages", "cancellation_token")


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes."""

    run_team: Seam
    reset_team: Seam
    run_agent: Seam
    stream_agent: Seam
    answers: tuple[Seam, ...]
    select: Seam
    publish: Seam


@dataclass(frozen=True, slots=True)
class _Classes:
    """What every message is compared with: imported once, when a run needs it."""

    handler_context: Any
    request: type
    answers: tuple[type, ...]
    last_items: tuple[type, ...]
    society: type[Any]


def require_autogen() -> None:
    """ConfigurationError if no AgentChat is installed."""
    try:
        import autogen_agentchat  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs autogen-agentchat, which is not installed: "
            "pip install 'kvflow-agents[autogen]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed AutoGen; ImportError if it is newer or has other classes."""
    installed = version("autogen-agentchat")
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) >= FIRST_UNKNOWN:
        raise ImportError(f"autogen-agentchat {installed} is newer than 0.7")
    from autogen_agentchat.agents import (
        AssistantAgent,
        BaseChatAgent,
        CodeExecutorAgent,
        SocietyOfMindAgent,
    )
    from autogen_agentchat.teams import BaseGroupChat
    from autogen_agentchat.teams._group_chat._base_group_chat_manager import BaseGroupChatManager
    from autogen_core import BaseAgent

    _classes()
    return Seams(
        run_team=Seam(BaseGroupChat, "run_stream", _RUN),
        reset_team=Seam(BaseGroupChat, "reset", ()),
        # Agents on their own, and those that tools run.
        run_agent=Seam(BaseChatAgent, "run", _RUN),
        stream_agent=Seam(BaseChatAgent, "run_stream", _RUN),
        # Agents that somebody's code asks directly.
        answers=tuple(
            Seam(owner, "on_messages_stream", _MESSAGES)
            for owner in (AssistantAgent, CodeExecutorAgent, SocietyOfMindAgent)
        ),
        # All speakers of a turn are known; none of them has been asked.
        select=Seam(BaseGroupChatManager, "_log_speaker_selection", ("speaker_names",)),
        # A speaker is asked, or has answered.
        publish=Seam(BaseAgent, "publish_message", ("message", "topic_id", "cancellation_token")),
    )


@cache
def _classes() -> _Classes:
    from autogen_agentchat.agents import SocietyOfMindAgent
    from autogen_agentchat.base import Response, TaskResult
    from autogen_agentchat.teams._group_chat import _events as events
    from autogen_core import MessageHandlerContext

    return _Classes(
        handler_context=MessageHandlerContext,
        request=events.GroupChatRequestPublish,
        answers=(events.GroupChatAgentResponse, events.GroupChatTeamResponse),
        last_items=(Response, TaskResult),
        society=SocietyOfMindAgent,
    )


def handler_id() -> HandlerId | None:
    """The actor whose message handler the code at work runs in."""
    try:
        return _classes().handler_context.agent_id()
    except RuntimeError:
        return None


def team_id_of(handler: HandlerId) -> str:
    """The id of the team that an actor belongs to."""
    return str(handler.key)


def name_of(handler: HandlerId) -> str:
    """An actor's name in its team."""
    return str(handler.type).removesuffix(f"_{handler.key}")


def is_request(message: object) -> bool:
    """Whether a message asks a participant to speak."""
    return type(message) is _classes().request


def is_answer(message: object) -> bool:
    """Whether a message is what a participant has said."""
    return type(message) in _classes().answers


def asked_in(topic: Any) -> str:
    """The participant that a request goes to, by its topic."""
    return str(topic.type).removesuffix(f"_{topic.source}")


def answered_in(message: Any) -> str:
    """The participant whose answer a message is."""
    return str(message.name)


def is_last(item: object) -> bool:
    """Whether nothing follows an item of a run's stream."""
    return isinstance(item, _classes().last_items)


def can_be_wrapped(subject: object) -> bool:
    """Whether something is run by itself."""
    return is_team(subject) or is_agent(subject)


def is_team(subject: object) -> bool:
    """Whether something is a team that runs a group chat."""
    from autogen_agentchat.teams import BaseGroupChat

    return isinstance(subject, BaseGroupChat)


def is_agent(subject: object) -> bool:
    """Whether something is an agent of AgentChat."""
    from autogen_agentchat.agents import BaseChatAgent

    return isinstance(subject, BaseChatAgent)


def id_of(team: Team) -> str:
    """A team's id: it stays the same over all runs of the object."""
    return str(team._team_id)


def participants_of(team: Team) -> Sequence[Any]:
    """A team's agents and teams, in their order."""
    participants: Sequence[Any] = team._participants
    return participants


def manager_name_of(team: Team) -> str:
    """What a team calls its manager."""
    return str(team._group_chat_manager_name)


def most_turns_of(team: Team) -> int | None:
    """After how many turns a team stops, if nothing else stops it."""
    turns: int | None = team._max_turns
    return turns if team._termination_condition is None else None


def team_inside(agent: Agent) -> Team | None:
    """The team that an agent runs before it answers."""
    # Its base is a protocol, whose `isinstance` takes longer than all else that a call needs here.
    return agent._team if _classes().society in type(agent).__mro__ else None


def wraps(agent: Agent, inner: Agent) -> bool:
    """Whether one agent stands for another, as a message filter does."""
    return getattr(agent, "_wrapped_agent", None) is inner


def handoffs_of(agent: Agent) -> list[str]:
    """Whom an agent can hand over to."""
    return [str(handoff.target) for handoff in getattr(agent, "_handoffs", {}).values()]


def has_selector_function(team: Team) -> bool:
    """Whether code chooses a selector's next speaker, or narrows the choice to one."""
    return team._selector_func is not None or team._candidate_func is not None


def can_repeat(team: Team) -> bool:
    """Whether a selector's speaker may speak twice in turn."""
    return bool(team._allow_repeated_speaker)


def graph_of(team: Team) -> Mapping[str, Any]:
    """The nodes of a graph flow: each with its `edges`."""
    nodes: Mapping[str, Any] = team._graph.nodes
    return nodes


def start_nodes_of(team: Team) -> list[str]:
    """Where a graph flow starts, in an order that is the same in every process."""
    return sorted(team._graph.get_start_nodes())


def is_conditional(edge: Any) -> bool:
    """Whether an edge of a graph flow may not be taken."""
    return edge.condition is not None or edge.condition_function is not None
