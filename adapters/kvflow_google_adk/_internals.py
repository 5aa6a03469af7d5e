"""What the adapter relies on inside Google ADK: every such name is in this module.

Tested with google-adk 2.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Runner: TypeAlias = Any
"""`google.adk.Runner`: what runs an agent in sessions."""
Node: TypeAlias = Any
"""An agent, or another node of a `Workflow`."""


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes."""

    run: Seam
    close: Seam
    run_agent: Seam
    start_node: Seam


@dataclass(frozen=True, slots=True)
class _Classes:
    """What nodes are compared with: imported once, when a run needs it."""

    runner: type
    agent: type
    model_agent: type
    sequence: type
    loop: type
    parallel: type
    workflow: type
    join: type


def require_google_adk() -> None:
    """ConfigurationError if no ADK is installed."""
    try:
        import google.adk  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs google-adk, which is not installed: "
            "pip install 'kvflow-agents[google-adk]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed ADK; ImportError if it lacks a name that is needed."""
    from google.adk.agents import BaseAgent
    from google.adk.runners import Runner
    from google.adk.workflow import Workflow

    _classes()
    return Seams(
        run=Seam(Runner, "run_async", ("user_id", "session_id"), may_take_more=True),
        close=Seam(Runner, "close", (), may_take_more=True),
        run_agent=Seam(BaseAgent, "run_async", ("parent_context",), may_take_more=True),
        # Called for all nodes that are ready before the first of them runs.
        start_node=Seam(Workflow, "_start_node_task", ("node_name",), may_take_more=True),
    )


@cache
def _classes() -> _Classes:
    from google.adk.agents import (
        BaseAgent,
        LlmAgent,
        LoopAgent,
        ParallelAgent,
        SequentialAgent,
    )
    from google.adk.runners import Runner
    from google.adk.workflow import JoinNode, Workflow

    return _Classes(
        runner=Runner,
        agent=BaseAgent,
        model_agent=LlmAgent,
        sequence=SequentialAgent,
        loop=LoopAgent,
        parallel=ParallelAgent,
        workflow=Workflow,
        join=JoinNode,
    )


def is_runner(subject: object) -> bool:
    """Whether something runs agents."""
    return isinstance(subject, _classes().runner)


def is_agent(node: Node) -> bool:
    """Whether a node is an agent of any kind."""
    return isinstance(node, _classes().agent)


def is_sequence(node: Node) -> bool:
    """Whether an agent runs others one after another; a loop does so several times."""
    return isinstance(node, (_classes().sequence, _classes().loop))


def is_loop(node: Node) -> bool:
    """Whether an agent begins again after its last sub-agent."""
    return isinstance(node, _classes().loop)


def is_parallel(node: Node) -> bool:
    """Whether an agent runs others at once."""
    return isinstance(node, _classes().parallel)


def is_workflow(node: Node) -> bool:
    """Whether a node is a graph of nodes."""
    return isinstance(node, _classes().workflow)


def is_join(node: Node) -> bool:
    """Whether a node waits for all that lead to it."""
    return isinstance(node, _classes().join)


def calls_model(node: Node) -> bool:
    """Whether an agent calls the model itself, as far as we know."""
    classes = _classes()
    shells = (classes.sequence, classes.loop, classes.parallel)
    return isinstance(node, classes.agent) and not isinstance(node, shells)


def session_name(runner: Runner, user: str, session: str) -> str:
    """A session's id and a hash of its app and its user, of which each has ids of its own.

    The user's id may be an address, and stays here.
    """
    owner = hashlib.blake2b(digest_size=6)
    for part in (str(runner.app_name), user):
        owner.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return f"{session}@{owner.hexdigest()}"


def root_of(runner: Runner) -> Node:
    """What a runner runs."""
    return runner.agent


def sub_agents_of(agent: Node) -> Sequence[Node]:
    """An agent's agents, in their order."""
    found: Sequence[Node] = agent.sub_agents
    return found


def can_go_back(agent: Node) -> bool:
    """Whether an agent may hand over to its parent."""
    return not getattr(agent, "disallow_transfer_to_parent", True)


def can_go_beside(agent: Node) -> bool:
    """Whether an agent may hand over to its parent's other agents."""
    return not getattr(agent, "disallow_transfer_to_peers", True)


def edges_of(workflow: Node) -> Sequence[tuple[Node, Node]]:
    """Who leads to whom in a graph of nodes."""
    graph = workflow.graph
    return [] if graph is None else [(edge.from_node, edge.to_node) for edge in graph.edges]


def node_named(workflow: Node, name: str) -> Node | None:
    """A node of a graph."""
    nodes = [] if workflow.graph is None else workflow.graph.nodes
    return next((node for node in nodes if node.name == name), None)
