"""A small society: people who walk between the places of a town, work there, and talk.

Pure and deterministic: the course depends on the seed alone, never on what a model says. Whoever
ends an activity decides where to go next; two who are at the same place and have rested from the
last talk have one. Deciding and talking are what they call a model for.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from kvflow_agents.distance import ActionTime, Distance, Interaction, Nearest, Rendezvous

NAMES = ("Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jule")
TRADES = ("miller", "baker", "nurse", "smith", "clerk", "teacher", "gardener", "ferryman")
HABITS = (
    "gets up before the sun and hums while working",
    "remembers every debt and forgives few of them",
    "reads the paper aloud to anyone who does not run",
    "keeps bees and speaks of the weather in their name",
    "never finishes a story in the place where it began",
    "knows the price of everything in three towns",
    "paints the doors of others without asking",
    "collects keys and tries them at night",
)
PLACES = (
    *("market", "inn", "mill", "church", "school", "harbour", "forge", "bakery", "library"),
    *("well", "bridge", "garden", "theatre", "station", "bath", "chapel", "orchard", "pond"),
)
WALK_PER_TICK = 12.0
LONGEST_ACTIVITY_TICKS = 14
LONGEST_REST_TICKS = 12

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call of a tick: who makes it, and why."""

    agent: str
    reason: str


@dataclass(slots=True)
class Person:
    """Somebody on the way to a place, or there."""

    name: str
    persona: str
    speed: float
    position: Point
    goal: str
    trail: list[Point] = field(default_factory=list)


class Society:
    """The people, the places, and who does what in which tick."""

    def __init__(self, people: int, *, words: int, seed: int) -> None:
        """Everybody's persona has so many `words`, which nobody else's share."""
        self._random = random.Random(seed)
        self.places = self._lay_out()
        self.people = {}
        for number in range(people):
            person = self._bear(number, words)
            self.people[person.name] = person
        self.activity_ticks: dict[str, float | None] = {}
        """What is left of what each person does: the way there, then the time there."""
        self.rest_ticks: dict[str, float] = {}
        self._visits: dict[str, list[str]] = defaultdict(list)
        for name, person in self.people.items():
            self._begin(person, person.goal)
            # They are in the middle of it, not all at the start.
            self.activity_ticks[name] = self._random.randint(0, LONGEST_ACTIVITY_TICKS)
            self.rest_ticks[name] = float(self._random.randint(0, LONGEST_REST_TICKS))

    def tick(self) -> list[list[Turn]]:
        """Time passes. The tick's calls, those that wait for each other in one list."""
        for name, person in self.people.items():
            _walk(person, self.places[person.goal])
            self.activity_ticks[name] = (self.activity_ticks[name] or 0) - 1
            self.rest_ticks[name] = max(0.0, self.rest_ticks[name] - 1)
        talks = list(self._talks())
        talking = {turn.agent for talk in talks for turn in talk}
        return talks + [
            [Turn(name, f"You have done what you came for at the {person.goal}. Where to now?")]
            for name, person in self.people.items()
            if (self.activity_ticks[name] or 0) <= 0 and name not in talking
        ]

    def go_on(self, turns: list[list[Turn]]) -> None:
        """What the calls of a tick lead to."""
        for each in turns:
            for turn in each:
                person = self.people[turn.agent]
                if len(each) > 1:
                    self.rest_ticks[turn.agent] = float(self._random.randint(2, LONGEST_REST_TICKS))
                if (self.activity_ticks[turn.agent] or 0) <= 0:
                    self._begin(person, self._random.choice(list(self.places)))

    def distance(self, turns: list[list[Turn]]) -> Distance:
        """When anybody calls next, as they could know it; 0 for this tick's calls."""
        ways = {
            name: math.dist(person.position, self.places[person.goal])
            for name, person in self.people.items()
        }
        meets = Rendezvous(
            {name: person.goal for name, person in self.people.items()},
            ways,
            {name: person.speed for name, person in self.people.items()},
        )

        def meets_in(agent: str, other: str) -> float | None:
            """They talk once both are there and the other has rested too."""
            meeting = meets(agent, other)
            return None if meeting is None else max(meeting, self.rest_ticks[other])

        meeting = Interaction(meets_in, self._bound_for_the_same, rests=self.rest_ticks)
        now = ActionTime({turn.agent: 0.0 for each in turns for turn in each})
        ending = ActionTime({name: (left or 0) + 1 for name, left in self.activity_ticks.items()})
        return Nearest(now, ending, meeting)

    def _bound_for_the_same(self, agent: str) -> list[str]:
        return self._visits[self.people[agent].goal]

    def _talks(self) -> Iterator[list[Turn]]:
        for place, names in self._visits.items():
            there = [
                name
                for name in names
                if not self.rest_ticks[name] and self.people[name].position == self.places[place]
            ]
            for one, other in zip(there[::2], there[1::2], strict=False):
                yield [
                    Turn(one, f"At the {place} you meet {other}. What do you say?"),
                    Turn(other, f"At the {place} you meet {one}, who greets you. What do you say?"),
                ]

    def _begin(self, person: Person, place: str) -> None:
        if person.name in self._visits[person.goal]:
            self._visits[person.goal].remove(person.name)
        person.goal = place
        self._visits[place].append(person.name)
        way = math.dist(person.position, self.places[place])
        stays = self._random.randint(2, LONGEST_ACTIVITY_TICKS)
        self.activity_ticks[person.name] = math.ceil(way / person.speed) + stays

    def _bear(self, number: int, words: int) -> Person:
        name = f"{NAMES[number % len(NAMES)]} {number}"
        about = f"You are {name}, {self._random.choice(TRADES)} of the town."
        parts = [about]
        while sum(len(part.split()) for part in parts) < words:
            parts.append(f"{name} {self._random.choice(HABITS)}.")
        goal = self._random.choice(list(self.places))
        speed = WALK_PER_TICK * self._random.uniform(0.5, 1.5)
        return Person(name, " ".join(parts), speed, self.places[goal], goal)

    def _lay_out(self) -> dict[str, Point]:
        side = math.ceil(math.sqrt(len(PLACES)))
        cell = 100 / side
        return {
            place: (
                (index % side + self._random.uniform(0.2, 0.8)) * cell,
                (index // side + self._random.uniform(0.2, 0.8)) * cell,
            )
            for index, place in enumerate(PLACES)
        }


def _walk(person: Person, goal: Point) -> None:
    way = math.dist(person.position, goal)
    if way:
        person.trail.append(person.position)
    if way <= person.speed:
        person.position = goal
        return
    share = person.speed / way
    x, y = person.position
    person.position = (x + share * (goal[0] - x), y + share * (goal[1] - y))
