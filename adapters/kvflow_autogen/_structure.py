"""The static step graph of a team: a prior that its runs add to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from kvflow_agents import Join, StepGraph, agent_name
from kvflow_agents.scopes import end_of, start_of
from kvflow_autogen import _internals as internals
from kvflow_autogen._internals import Agent, Team

Path = tuple[str, ...]

ANSWER = "SocietyOfMindAgent"
"""The agent that sums a team's work up, among the agents of that team."""


def structure_of(subject: Team | Agent, path: Path = (), scope: str = "") -> StepGraph:
    """What a team, or one agent, says about who follows whom.

    Its agents are named below `path`, its start and end are those of `scope`.
    """
    reader = _Reader()
    if internals.is_team(subject):
        reader.read_team(subject, path, scope, end_of(scope))
    else:
        reader.read_single(subject, path, scope)
    return StepGraph(
        reader.joins, agents=reader.agents, passive=reader.passive, open_agents=reader.open_agents
    )


def answer_path(path: Path) -> Path:
    """Where the calls of an agent stand that runs a team before it answers."""
    return (*path, ANSWER)


@dataclass(frozen=True, slots=True)
class Member:
    """A participant's place in the step graph: where it begins and where it ends."""

    entry: str
    exit: str


@dataclass(slots=True)
class _Plan:
    """What the joins of one team are drawn between."""

    team: Team
    members: Mapping[str, Member]
    manager: str
    start: str
    end: str
    turn: str
    """A passive node between any two turns."""
    open_agents: list[str] = field(default_factory=list)

    def entries(self) -> list[str]:
        return [member.entry for member in self.members.values()]

    def exits(self) -> list[str]:
        return [member.exit for member in self.members.values()]


class _Reader:
    """Collects the joins of a team and of the teams inside it."""

    def __init__(self) -> None:
        self.joins: list[Join] = []
        self.agents: list[str] = []
        self.passive: list[str] = []
        self.open_agents: list[str] = []

    def read_team(self, team: Team, path: Path, scope: str, end: str) -> None:
        members = {
            participant.name: self._read_participant(participant, (*path, participant.name))
            for participant in internals.participants_of(team)
        }
        manager = agent_name((*path, internals.manager_name_of(team)))
        turn = f"{scope}/__turn__"
        plan = _Plan(team, members, manager, start_of(scope), end, turn)
        self.passive += [start_of(scope), end_of(scope), turn]
        self.joins += _joins_of(team)(plan)
        self.open_agents += plan.open_agents

    def read_single(self, agent: Agent, path: Path, scope: str) -> None:
        member = self._read_participant(agent, (*path, agent.name))
        self.passive += [start_of(scope), end_of(scope)]
        self.joins += [
            _edge(start_of(scope), member.entry),
            _edge(member.exit, end_of(scope)),
        ]

    def _read_participant(self, participant: Team | Agent, path: Path) -> Member:
        agent = agent_name(path)
        if internals.is_team(participant):
            self.read_team(participant, path, agent, end_of(agent))
            return Member(start_of(agent), end_of(agent))
        if (team := internals.team_inside(participant)) is not None:
            answer = agent_name(answer_path(path))
            self.read_team(team, path, agent, answer)
            self.joins.append(_edge(answer, end_of(agent)))
            return Member(start_of(agent), end_of(agent))
        self.agents.append(agent)
        return Member(agent, agent)


def _joins_of(team: Team) -> Callable[[_Plan], Iterable[Join]]:
    from autogen_agentchat import teams

    kinds: dict[type, Callable[[_Plan], Iterable[Join]]] = {
        teams.RoundRobinGroupChat: _round_robin,
        teams.SelectorGroupChat: _selector,
        teams.Swarm: _swarm,
        teams.GraphFlow: _graph_flow,
        teams.MagenticOneGroupChat: _magentic,
    }
    return next((joins for kind, joins in kinds.items() if isinstance(team, kind)), _unknown)


def _round_robin(plan: _Plan) -> Iterator[Join]:
    """A cycle; a line if the team stops after one turn of each."""
    members = list(plan.members.values())
    turns = internals.most_turns_of(plan.team)
    yield _edge(plan.start, members[0].entry)
    for member, following in pairwise(members):
        yield _edge(member.exit, following.entry)
    if turns != len(members):
        yield _edge(members[-1].exit, members[0].entry)
    last = members if turns is None else [members[(turns - 1) % len(members)]]
    for member in last:
        yield _edge(member.exit, plan.end)


def _selector(plan: _Plan) -> Iterator[Join]:
    """A star around the manager, who calls the model unless code or the rules leave one choice."""
    alone = len(plan.members) == 1
    in_turn = len(plan.members) == 2 and not internals.can_repeat(plan.team)
    has_function = internals.has_selector_function(plan.team)
    if not alone:
        yield _edge(plan.start, plan.manager)
        for entry in plan.entries():
            yield _edge(plan.manager, entry)
    if not alone and (has_function or not in_turn):
        for exit in plan.exits():
            yield _edge(exit, plan.manager)
    if alone or has_function:
        yield from _anyone(plan)
    elif in_turn:
        one, other = plan.members.values()
        yield from (_edge(one.exit, other.entry), _edge(other.exit, one.entry))
    yield from _any_last(plan)


def _swarm(plan: _Plan) -> Iterator[Join]:
    participants = internals.participants_of(plan.team)
    yield _edge(plan.start, plan.members[participants[0].name].entry)
    for participant in participants:
        member = plan.members[participant.name]
        yield _edge(member.exit, member.entry)
        for target in internals.handoffs_of(participant):
            if target in plan.members:
                yield _edge(member.exit, plan.members[target].entry)
    yield from _any_last(plan)


def _graph_flow(plan: _Plan) -> Iterator[Join]:
    """Edges of one activation group are an AND join, or alternatives if any of them suffices."""
    nodes = internals.graph_of(plan.team)
    for name in internals.start_nodes_of(plan.team):
        yield _edge(plan.start, plan.members[name].entry)
    groups: dict[tuple[str, str], list[str]] = {}
    for name, node in nodes.items():
        for edge in node.edges:
            if edge.activation_condition == "any":
                yield _edge(plan.members[name].exit, plan.members[edge.target].entry)
            else:
                exits = groups.setdefault((edge.target, edge.activation_group), [])
                exits.append(plan.members[name].exit)
    for (target, _), exits in groups.items():
        yield Join(frozenset(exits), plan.members[target].entry)
    yield from _graph_ends(plan)


def _graph_ends(plan: _Plan) -> Iterator[Join]:
    """A graph without conditions ends after all of its leaves, another after any last node."""
    nodes = internals.graph_of(plan.team)
    leaves = [plan.members[name].exit for name, node in nodes.items() if not node.edges]
    conditional = [
        plan.members[name].exit
        for name, node in nodes.items()
        if any(internals.is_conditional(edge) for edge in node.edges)
    ]
    if conditional:
        yield from (_edge(exit, plan.end) for exit in leaves + conditional)
    else:
        yield Join(frozenset(leaves), plan.end)


def _magentic(plan: _Plan) -> Iterator[Join]:
    yield _edge(plan.start, plan.manager)
    yield _edge(plan.manager, plan.end)
    for member in plan.members.values():
        yield _edge(plan.manager, member.entry)
        yield _edge(member.exit, plan.manager)


def _unknown(plan: _Plan) -> Iterator[Join]:
    """A team of somebody's own: anyone may follow anyone, the manager too."""
    plan.open_agents += plan.exits()
    yield from _anyone(plan)
    yield from _any_last(plan)


def _anyone(plan: _Plan) -> Iterator[Join]:
    for source in (plan.start, *plan.exits()):
        yield _edge(source, plan.turn)
    for entry in plan.entries():
        yield _edge(plan.turn, entry)


def _any_last(plan: _Plan) -> Iterator[Join]:
    for exit in plan.exits():
        yield _edge(exit, plan.end)


def _edge(source: str, target: str) -> Join:
    return Join(frozenset({source}), target)
