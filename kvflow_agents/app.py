"""An application: its step graph, and the edges seen in its runs that the graph lacks."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from kvflow_agents.failsafe import logger
from kvflow_agents.forecast import Steps
from kvflow_agents.hints import MAX_AGENTS, fitting
from kvflow_agents.scope_steps import Front, ScopeSteps
from kvflow_agents.scopes import start_of
from kvflow_agents.step_graph import Join, Outlook, StepGraph
from kvflow_agents.timing import Timing

# A graph whose every step leads somewhere new would grow for ever.
MAX_LEARNED_EDGES = 10_000
# One that names agents after what they work on would, too: forecasts of it say nothing.
MAX_LEARNED_AGENTS = 256
# Bounds what is kept of outlooks, all together: some megabytes.
MAX_REMEMBERED_AGENTS = 65_536
# Agents whose adapter is remembered.
MAX_LORAS = 4096
# Scopes that were found at work and need not be looked at again.
MAX_ADOPTED = 1024


class App:
    """A graph shared by every run of one application; safe to use from several threads.

    Where no structure is known beforehand (`is_open`), every agent that is learned is an open one,
    and the application needs a `name` of its own.
    """

    def __init__(self, graph: StepGraph, *, name: str | None = None, is_open: bool = False) -> None:
        self.name = name or graph.fingerprint()
        # By who there is: one agent may begin a conversation, and another go on with it.
        self.mark = _mark(
            self.name if name or not graph.agents else "\n".join(sorted(graph.agents))
        )
        """Tells conversations apart that other applications know by the same name."""
        self._grow(graph)
        self.timing = Timing()
        self.loras: dict[str, str] = {}
        """The LoRA adapter that each agent calls with, as far as it was said."""
        self._is_open = is_open
        self._learned: set[tuple[str, str]] = set()
        self._adopted: dict[tuple[str, str], StepGraph] = {}
        self._nodes = {*graph.agents, *graph.passive}
        self._room_for_agents = MAX_LEARNED_AGENTS
        self._is_full = False
        self._most_joins = len(graph.joins) + MAX_LEARNED_EDGES
        self._outlooks: dict[tuple[Front, int], tuple[StepGraph, Outlook]] = {}
        self._steps_ahead: dict[tuple[Front, frozenset[str]], tuple[StepGraph, Steps]] = {}
        self._remembered_agents = 0
        self._lock = threading.Lock()

    def steps_ahead(self, front: Front, callers: frozenset[str]) -> Steps:
        """What a run says that is at a front: who has called and cannot again has no steps."""
        graph = self.graph
        of_graph, steps = self._steps_ahead.get((front, callers), (None, {}))
        if of_graph is not graph:
            outlook = self.outlook(front, most_agents=MAX_AGENTS)
            over = callers - outlook.steps.keys() if outlook.is_closed else ()
            steps = fitting({**outlook.steps, **dict.fromkeys(sorted(over))})
            self._make_room(len(steps) + len(callers))
            self._steps_ahead[front, callers] = (graph, steps)
        return steps

    def outlook(self, front: Front, *, most_agents: int) -> Outlook:
        """The graph's outlook, made once for all the runs that pass through the same front."""
        graph = self.graph
        of_graph, outlook = self._outlooks.get((front, most_agents), (None, None))
        if outlook is None or of_graph is not graph:
            outlook = graph.outlook(
                front.planned,
                finished=front.finished,
                arrived=dict(front.arrived),
                most_agents=most_agents,
            )
            if self._is_full:  # who was not learned may be followed by anyone
                outlook = replace(outlook, is_closed=False)
            self._make_room(len(outlook.steps))
            self._outlooks[front, most_agents] = (graph, outlook)
        return outlook

    def _make_room(self, agents: int) -> None:
        with self._lock:
            self._remembered_agents += agents
            if self._remembered_agents > MAX_REMEMBERED_AGENTS:
                self._forget_outlooks()
                self._remembered_agents = agents

    def _forget_outlooks(self) -> None:
        self._outlooks.clear()
        self._steps_ahead.clear()

    def learn(self, before: Collection[str], planned: Collection[str], *, is_start: bool) -> None:
        """Add the edges that explain `planned` after `before`, where the graph has none.

        A run that is resumed starts anywhere: a graph that says where it starts is believed.
        """
        graph = self.graph
        if is_start and any(_says_what_follows(graph, source) for source in before):
            return
        unexplained = [agent for agent in planned if not _follows(graph, agent, before)]
        if unexplained:
            sources = _sources(graph, before)
            self._add({(source, agent) for agent in unexplained for source in sources})

    def learn_caller(self, agent: str) -> None:
        """An agent calls the model: if the graph has only the scope it holds, it has both now."""
        start = start_of(agent)
        if start in self.graph.passive:
            self._add({(start, agent)})

    def learn_lora(self, agent: str, lora: str) -> None:
        """An agent calls with a LoRA adapter, in this run and very likely in others."""
        if agent in self.loras or len(self.loras) < MAX_LORAS:
            self.loras[agent] = lora

    def adopt(
        self, holder: str, scope: str, structure: Callable[[], StepGraph] | None = None
    ) -> None:
        """Add a scope that was found at work inside an agent, and its graph if it is new.

        Without a structure anything may follow its start. Whatever leads to the holder leads to
        that start, which takes no step of its own.
        """
        if self._adopted.get((holder, scope)) is self.graph:
            return  # nothing has been learned since
        start = start_of(scope)
        if start in self.graph.passive:
            inner = StepGraph()
        elif structure is None:
            inner = StepGraph(passive=[start], open_agents=[start])
        else:
            inner = structure()
        with self._lock:
            graph = self.graph
            entry = start_of(holder) if start_of(holder) in graph.passive else holder
            leading = {Join(frozenset({entry}), start)}
            leading |= {Join(join.sources, start) for join in graph.joins_into(entry)}
            new = leading.difference(graph.joins_into(start))
            if new and self._has_room(len(new) + len(inner.joins)):
                grown = graph.including(StepGraph(new, passive={start}))
                self._grow(grown if start in graph.passive else grown.including(inner))
                self._nodes.update((start, *inner.agents, *inner.passive))
            if len(self._adopted) >= MAX_ADOPTED:
                self._adopted.clear()
            self._adopted[holder, scope] = self.graph

    def _add(self, edges: set[tuple[str, str]]) -> None:
        with self._lock:
            new = self._among_known(edges - self._learned)
            if new and self._has_room(len(new)):
                self._learned |= new
                joins = [Join(frozenset({source}), target) for source, target in sorted(new)]
                found = {target for _, target in new} - self.graph.passive
                open_agents = found if self._is_open else ()
                self._grow(self.graph.including(StepGraph(joins, open_agents=open_agents)))

    def _among_known(self, edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """All of the edges, unless there is no room for the agents that they would add."""
        strangers = {node for edge in edges for node in edge} - self._nodes
        if len(strangers) <= self._room_for_agents:
            self._room_for_agents -= len(strangers)
            self._nodes |= strangers
            return edges
        if not self._is_full:
            self._is_full = True
            self._forget_outlooks()
            logger.warning(
                "an application has named more than %d agents that its structure does not have: no "
                "more are learned; name them for what they do, not for what they work on",
                MAX_LEARNED_AGENTS,
            )
        return {edge for edge in edges if strangers.isdisjoint(edge)}

    def _grow(self, graph: StepGraph) -> None:
        self.graph = graph
        self.steps = ScopeSteps(graph, self.learn)

    def _has_room(self, joins: int) -> bool:
        return len(self.graph.joins) + joins <= self._most_joins


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).hexdigest()


def _says_what_follows(graph: StepGraph, node: str) -> bool:
    return bool(graph.joins_from(node)) and node not in graph.open_agents


def _follows(graph: StepGraph, agent: str, before: Collection[str]) -> bool:
    """Whether a join leads from any of `before` to an agent."""
    for join in graph.joins_into(agent):
        if not join.sources.isdisjoint(before):
            return True
    return False


def _sources(graph: StepGraph, before: Collection[str]) -> Collection[str]:
    """Who may have led to something unmodelled: the open agents, or else all of the step."""
    open_agents = [agent for agent in before if agent in graph.open_agents]
    return open_agents or before
