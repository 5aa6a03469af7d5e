"""The static step graph of a workflow: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import end_of, start_of
from kvflow_llama_index import _internals as internals
from kvflow_llama_index._internals import Workflow

Path = tuple[str, ...]

# Of a step that waits for several events, each of which several steps may send.
MAX_COMBINATIONS = 64


def structure_of(workflow: Workflow, path: Path = (), scope: str = "") -> StepGraph:
    """What a workflow says about who follows whom: by handoffs, or by the events of its steps.

    Its agents are named below `path`, its start and end are those of `scope`. An agent that runs
    by itself is named by its own name.
    """
    passive = (start_of(scope), end_of(scope))
    if internals.is_team(workflow):
        joins = _handoffs(workflow, path, scope)
        return StepGraph(joins, passive=passive)
    if internals.is_agent(workflow):
        agent = agent_name((*path, internals.name_of(workflow)))
        return StepGraph(
            [_edge(start_of(scope), agent), _edge(agent, end_of(scope))], passive=passive
        )
    steps = internals.steps_of(workflow)
    return StepGraph(
        _events(steps, path, scope),
        agents=[agent_name((*path, name)) for name in steps],
        passive=passive,
        # What a step sends without saying so is learned.
        open_agents=[
            agent_name((*path, name)) for name, step in steps.items() if not internals.gives(step)
        ],
    )


def _handoffs(team: Workflow, path: Path, scope: str) -> Iterator[Join]:
    names = {name: agent_name((*path, name)) for name in internals.agents_of(team)}
    yield _edge(start_of(scope), names[internals.root_of(team)])
    for name, agent in names.items():
        yield _edge(agent, agent)
        for target in internals.handoffs_of(team, name):
            yield _edge(agent, names[target])
        yield _edge(agent, end_of(scope))


def _events(steps: Mapping[str, Any], path: Path, scope: str) -> Iterator[Join]:
    names = {name: agent_name((*path, name)) for name in steps}
    givers: dict[Any, list[str]] = {}
    for name, step in steps.items():
        for event in internals.gives(step):
            givers.setdefault(event, []).append(names[name])
    for name, step in steps.items():
        sources = [
            givers.get(event, []) + ([start_of(scope)] if internals.is_start(event) else [])
            for event in internals.takes(step)
        ]
        if internals.needs_all(step):
            for combination in islice(product(*sources), MAX_COMBINATIONS):
                yield Join(frozenset(combination), names[name])
        else:
            yield from (_edge(source, names[name]) for of_event in sources for source in of_event)
        if any(internals.is_stop(event) for event in internals.gives(step)):
            yield _edge(names[name], end_of(scope))


def _edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)
