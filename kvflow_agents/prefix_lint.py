"""Prompts that break their own prefix: something changes in front of what stays the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kvflow_agents.prefix_changes import (
    Kind,
    agreements,
    common_prefix_chars,
    have_same_words,
    kind_of_change,
)
from kvflow_agents.prompt_parts import Part, Prompt, first_chars, prompt_of

CHARS_PER_TOKEN = 4
# Fewer are not worth a finding: they are a page or two of a cache.
LEAST_LOST_TOKENS = 64
EXAMPLE_CHARS = 48
MAX_PLACES = 64

ADVICE: dict[Kind, str] = {
    "time": "move the time to the end of the prompt, or round it to the day",
    "id": "leave the id out, or move it to the end of the prompt",
    "number": "move the number to the end of the prompt",
    "order": "sort it: the same things, always in the same order",
    "cut": "keep the history whole, or cut many messages at once and seldom",
    "other": "move what changes behind what stays the same",
}
TOOLS_ADVICE = "offer the same tools in every call; forbid some with tool_choice"

CountTokens = Callable[[str], int]


def estimated_tokens(text: str) -> int:
    """About as many tokens as a tokenizer would make of English text."""
    return len(text) // CHARS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Break:
    """Where two successive prompts differ although they agree again behind it."""

    place: str
    char: int
    """At which character of the part `place` the value that changes begins."""
    kind: Kind
    before: str
    after: str
    lost_chars: int
    """What both prompts hold behind the change, and no prefix cache can find."""
    lost_tokens: int
    advice: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A place at which an agent's prompts break, with its first break for an example."""

    agent: str
    example: Break
    breaks: int
    calls: int
    """All calls of the agent, its first included."""
    lost_chars: int
    """Of all breaks."""
    lost_tokens: int


def find_break(
    last: Prompt,
    new: Prompt,
    *,
    count_tokens: CountTokens = estimated_tokens,
    least_lost_tokens: int = LEAST_LOST_TOKENS,
) -> Break | None:
    """Where a prompt breaks the prefix of the last one; None for one that grows or ends anew."""
    index = next(
        (index for index, pair in enumerate(zip(last, new, strict=False)) if _differ(*pair)), None
    )
    if index is None:
        return None
    one, other = last[index], new[index]
    is_same_part = one.place == other.place
    at = common_prefix_chars(one.text, other.text) if is_same_part else 0
    shared = agreements(one.text[at:], other.text[at:])
    kind, char = kind_of_change(one.text, other.text, at, shared) if is_same_part else ("other", 0)
    if one.is_tool and other.is_tool and _have_same_tools(last, new):
        kind = "order"
    lost = [other.text[at + run.in_other :][: run.chars] for run in shared]
    if kind != "other" or one.is_fixed or other.is_fixed:
        rest, new_rest = _text(last[index:])[at:], _text(new[index:])[at:]
        runs = agreements(rest, new_rest)
        lost = [new_rest[run.in_other :][: run.chars] for run in runs]
    elif moved := _kept_of_cut_history(last, new, index):
        kind, char, lost = "cut", 0, [_text(moved)]
    lost_tokens = sum(map(count_tokens, lost))
    if lost_tokens < least_lost_tokens:
        return None
    return Break(
        place=other.place if other.is_tool or not one.is_tool else one.place,
        char=char,
        kind=kind,
        before=_excerpt(one.text, char),
        after=_excerpt(other.text, char),
        lost_chars=sum(map(len, lost)),
        lost_tokens=lost_tokens,
        advice=TOOLS_ADVICE if kind == "other" and (one.is_tool or other.is_tool) else ADVICE[kind],
    )


@dataclass(slots=True)
class _Place:
    example: Break
    breaks: int = 0
    lost_chars: int = 0
    lost_tokens: int = 0


@dataclass(slots=True)
class _Agent:
    prompt: Prompt
    calls: int = 1
    places: dict[tuple[str, Kind, int | None], _Place] = field(default_factory=dict)


class PrefixLint:
    """Compares each agent's prompt with its last, and keeps one finding per agent and place.

    Bounded if asked to be: `most_agents` are remembered (those that called last), of each the
    first `most_chars` of its last prompt and at most 64 places.
    """

    def __init__(
        self,
        *,
        count_tokens: CountTokens = estimated_tokens,
        least_lost_tokens: int = LEAST_LOST_TOKENS,
        most_agents: int | None = None,
        most_chars: int | None = None,
    ) -> None:
        self._count_tokens = count_tokens
        self._least_lost_tokens = least_lost_tokens
        self._most_agents = most_agents
        self._most_chars = most_chars
        self._agents: OrderedDict[str, _Agent] = OrderedDict()

    def __len__(self) -> int:
        """How many agents are remembered."""
        return len(self._agents)

    def see(self, agent: str, request: object) -> Break | None:
        """An agent's next request; what it breaks, if that is new. ValueError if it is none."""
        prompt = prompt_of(request)
        if self._most_chars is not None:
            prompt = first_chars(prompt, self._most_chars)
        known = self._agents.get(agent)
        if known is None:
            self._agents[agent] = _Agent(prompt)
            if self._most_agents is not None and len(self._agents) > self._most_agents:
                self._agents.popitem(last=False)
            return None
        self._agents.move_to_end(agent)
        known.calls += 1
        last, known.prompt = known.prompt, prompt
        broken = find_break(
            last,
            prompt,
            count_tokens=self._count_tokens,
            least_lost_tokens=self._least_lost_tokens,
        )
        return None if broken is None else self._note(known, broken)

    def findings(self) -> list[Finding]:
        """What was found, the most expensive first."""
        found = [
            Finding(
                agent,
                place.example,
                place.breaks,
                known.calls,
                place.lost_chars,
                place.lost_tokens,
            )
            for agent, known in self._agents.items()
            for place in known.places.values()
        ]
        return sorted(found, key=lambda finding: -finding.lost_tokens)

    def _note(self, known: _Agent, broken: Break) -> Break | None:
        key = _key(broken)
        is_new = key not in known.places
        if is_new:
            if len(known.places) == MAX_PLACES:
                return None
            known.places[key] = _Place(broken)
        place = known.places[key]
        place.breaks += 1
        place.lost_chars += broken.lost_chars
        place.lost_tokens += broken.lost_tokens
        return broken if is_new else None


def lint(requests: Iterable[tuple[str, object]]) -> list[Finding]:
    """What breaks in requests (each with its agent's name) that were made one after another."""
    seen = PrefixLint()
    for agent, request in requests:
        seen.see(agent, request)
    return seen.findings()


def _key(broken: Break) -> tuple[str, Kind, int | None]:
    # Values begin where they begin; where other text first differs is chance from call to call.
    if broken.kind in ("time", "id", "number"):
        return broken.place, broken.kind, broken.char
    place = broken.place.partition(" ")[0] if broken.kind in ("order", "cut") else broken.place
    return place, broken.kind, None


def _differ(one: Part, other: Part) -> bool:
    return one.text != other.text or one.place != other.place


def _have_same_tools(last: Prompt, new: Prompt) -> bool:
    one, other = (" ".join(part.text for part in prompt if part.is_tool) for prompt in (last, new))
    return have_same_words(one, other)


def _kept_of_cut_history(last: Prompt, new: Prompt, index: int) -> Prompt:
    """The end of the last prompt, if it follows in the new one where older parts have gone."""
    texts = [part.text for part in new[index:]]
    for start in range(index + 1, len(last)):
        kept = last[start:]
        if [part.text for part in kept] == texts[: len(kept)]:
            return kept
    return ()


def _text(parts: Iterable[Part]) -> str:
    return "\n".join(part.text for part in parts)


def _excerpt(text: str, char: int) -> str:
    cut = text[char : char + EXAMPLE_CHARS]
    return cut if char + EXAMPLE_CHARS >= len(text) else f"{cut}…"
