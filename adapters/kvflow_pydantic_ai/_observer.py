"""The observer: turns the runs of agents into plans of workflows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import kvflow_agents
from kvflow_agents import Carrier, Join, StepGraph, agent_name, loops
from kvflow_agents.apps import Apps
from kvflow_agents.endings import Endings
from kvflow_agents.loops import LoopAgent
from kvflow_agents.runs import Caller, Run, Runs
from kvflow_agents.scopes import END, START
from kvflow_pydantic_ai import _internals as internals
from kvflow_pydantic_ai._internals import Agent, AgentRun

_agent_name = lru_cache(maxsize=8192)(agent_name)


@dataclass(eq=False)
class Turn:
    """One run of an agent: a workflow of its own, or inside the run whose tool asks for it."""

    run: Run
    path: tuple[str, ...]
    outer: Turn | None
    goes_on: bool
    is_over: bool = False
    agent: str = field(init=False)
    scope: str = field(init=False)
    """The scope that it is a step of."""

    def __post_init__(self) -> None:
        self.agent = _agent_name(self.path)
        self.scope = "" if self.outer is None else f"{self.outer.agent}/*"


_turn: ContextVar[Turn | None] = ContextVar("kvflow_pydantic_ai_turn", default=None)


class Observer:
    """Follows the runs of every agent that somebody subscribes to."""

    def __init__(self, subscribers: Callable[[Agent], Collection[Carrier]]) -> None:
        self._subscribers = subscribers
        self._apps = Apps(structure_of)
        self._runs = Runs()
        self._turns: WeakValueDictionary[str, Turn] = WeakValueDictionary()
        self.endings = Endings(self._runs)

    def enter(
        self, agent: Agent, run: AgentRun, options: Mapping[str, Any]
    ) -> Turn | LoopAgent | None:
        """A run begins, in whose place its code is from now on; None if nobody wants to know."""
        outer = self._here()
        turn = self._begin(agent, run, options) if outer is None else self._inside(outer, agent)
        if isinstance(turn, Turn):
            turn.run.workflow.join(turn.scope, turn.agent)
            self._turns[internals.run_id_of(run)] = turn
            _turn.set(turn)
        return turn

    def leave(self, turn: Turn | LoopAgent, run: AgentRun, *, failed: bool) -> None:
        """A run is over."""
        if isinstance(turn, LoopAgent):
            turn.__exit__(None, None, None)
            return
        turn.is_over = True
        # Not by a token: a stream may be closed in another context than it began in.
        _turn.set(turn.outer)
        if turn.outer is not None:
            turn.run.workflow.finish(turn.scope, turn.agent)
        else:
            result = None if failed else internals.state_of(run)
            self.endings.end(turn.run, result, goes_on=turn.goes_on)

    def caller(self) -> Caller | None:
        """Who is calling: whose request it is, else whose tool."""
        run_id = internals.run_id_of_request()
        turn = None if run_id is None else self._turns.get(run_id)
        if turn is None or turn.is_over:
            turn = self._here()
        return None if turn is None else Caller(turn.run, turn.agent)

    def _here(self) -> Turn | None:
        """The run that the code at work belongs to; a task that has outlived it is nowhere."""
        turn = _turn.get()
        return None if turn is None or turn.is_over else turn

    def _begin(
        self, agent: Agent, run: AgentRun, options: Mapping[str, Any]
    ) -> Turn | LoopAgent | None:
        self.endings.close_collected()
        carriers = self._subscribers(agent)
        if not carriers:
            return None
        name = internals.name_of(agent)
        if loops.is_at_work():
            return kvflow_agents.agent(name).__enter__()
        workflow = self._runs.begin(internals.conversation_of(run), self._apps.of(agent), carriers)
        return Turn(workflow, (name,), None, internals.goes_on(options))

    def _inside(self, outer: Turn, agent: Agent) -> Turn:
        """A tool, or an output function, asks an agent: who that will be is learned."""
        turn = Turn(outer.run, (*outer.path, internals.name_of(agent)), outer, goes_on=False)
        outer.run.workflow.app.adopt(outer.agent, turn.scope)
        return turn


def structure_of(agent: Agent) -> StepGraph:
    """All that an agent says beforehand: its tools are functions, which may ask anyone."""
    name = _agent_name((internals.name_of(agent),))
    edges = ((START, name), (name, END))
    joins = (Join(frozenset({source}), target) for source, target in edges)
    return StepGraph(joins, passive=[START, END])
