"""Which workflow a prompt belongs to, by what it repeats: an answer, or an earlier prompt."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from kvflow_agents.inference_prompts import CHUNK_TOKENS
from kvflow_agents.prefix import Tokens

WINDOW_TOKENS = 5
# An answer's first words may be joined to others when it is quoted: several beginnings.
_BEGINNINGS = 6
_STRIDE_TOKENS = 16
_MAX_ANSWER_TOKENS = 256
# A quote has two windows at least: six tokens in a row.
_FEWEST_WINDOWS = 2
# How much of a prompt is searched, at either end.
_SEARCHED_TOKENS = 2048
# Prompts with different ends after the same whole chunks.
_MAX_ENDS = 16

Window = tuple[int, ...]


class Answers:
    """Windows of recent answers. One that several workflows have said tells nothing.

    Costs O(tokens searched), at most twice 2,048, and O(256) for each answer.
    """

    def __init__(self, *, most_windows: int = 65_536) -> None:
        self._most_windows = most_windows
        self._workflow_of: OrderedDict[Window, int | None] = OrderedDict()
        self._first_tokens: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._workflow_of)

    def add(self, answer: Tokens, workflow: int) -> None:
        """A workflow has got an answer."""
        for start in _starts(len(answer)):
            window = tuple(answer[start : start + WINDOW_TOKENS])
            if window not in self._workflow_of:
                self._first_tokens[window[0]] += 1
                self._workflow_of[window] = workflow
            elif self._workflow_of[window] != workflow:
                self._workflow_of[window] = None
            self._workflow_of.move_to_end(window)
        while len(self._workflow_of) > self._most_windows:
            window, _ = self._workflow_of.popitem(last=False)
            self._first_tokens[window[0]] -= 1
            if not self._first_tokens[window[0]]:
                del self._first_tokens[window[0]]

    def find(self, prompt: Tokens, start: int) -> int | None:
        """The workflow whose answers a prompt quotes most, from `start` on; None in doubt."""
        quoted: dict[int, set[Window]] = {}
        middle = min(start + _SEARCHED_TOKENS, len(prompt))
        for low, high in ((start, middle), (max(middle, len(prompt) - _SEARCHED_TOKENS), None)):
            for offset, token in enumerate(prompt[low:high], low):
                if token in self._first_tokens:
                    window = tuple(prompt[offset : offset + WINDOW_TOKENS])
                    workflow = self._workflow_of.get(window)
                    if workflow is not None:
                        quoted.setdefault(workflow, set()).add(window)
        ranked = sorted(quoted, key=lambda each: (len(quoted[each]), each), reverse=True)
        if not ranked or len(quoted[ranked[0]]) < _FEWEST_WINDOWS:
            return None
        is_tie = len(ranked) > 1 and len(quoted[ranked[0]]) == len(quoted[ranked[1]])
        return None if is_tie else ranked[0]


class Prompts:
    """The ends of recent prompts, to know a prompt that begins with a whole earlier one.

    Costs O(chunks of the prompt) dictionary look-ups.
    """

    def __init__(self, *, most_ends: int = 8192) -> None:
        self._most_ends = most_ends
        # Name of the whole chunks -> what came after them -> workflow; None: of several.
        self._ends: OrderedDict[int, OrderedDict[Window, int | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, prompt: Tokens, chain: Sequence[int], workflow: int) -> None:
        """A workflow has sent a prompt; one with fewer or more chunks than `chain` is skipped."""
        whole = len(chain) * CHUNK_TOKENS
        if not chain or len(prompt) - whole >= CHUNK_TOKENS:
            return
        ends = self._ends.setdefault(chain[-1], OrderedDict())
        end = tuple(prompt[whole:])
        ends[end] = workflow if ends.get(end, workflow) == workflow else None
        ends.move_to_end(end)
        if len(ends) > _MAX_ENDS:
            ends.popitem(last=False)
        self._ends.move_to_end(chain[-1])
        if len(self._ends) > self._most_ends:
            self._ends.popitem(last=False)

    def find(self, prompt: Tokens, chain: Sequence[int]) -> int | None:
        """The workflow of the longest earlier prompt that this one begins with."""
        for chunks in range(len(chain), 0, -1):
            ends = self._ends.get(chain[chunks - 1])
            if not ends:
                continue
            after = tuple(prompt[chunks * CHUNK_TOKENS : (chunks + 1) * CHUNK_TOKENS])
            for size in range(len(after), -1, -1):
                is_longer = chunks * CHUNK_TOKENS + size < len(prompt)
                if is_longer and after[:size] in ends:
                    return ends[after[:size]]
        return None


def _starts(answer_tokens: int) -> list[int]:
    last = min(answer_tokens, _MAX_ANSWER_TOKENS) - WINDOW_TOKENS
    spread = range(_STRIDE_TOKENS, last + 1, _STRIDE_TOKENS)
    pairs = [start + shift for start in spread for shift in (0, 1) if start + shift <= last]
    return [*range(min(_BEGINNINGS, last + 1)), *pairs]
