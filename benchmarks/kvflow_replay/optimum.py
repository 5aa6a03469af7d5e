"""Belady's MIN over the blocks of a trace: no order of eviction finds more."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from kvflow_agents.hints import Hint
from kvflow_agents.prefix import Tokens
from kvflow_replay.caches import Found
from kvflow_simulate.requests import Request


class NextUses:
    """When each block of each prompt is used again, by the prompts' numbers; `never` if not."""

    def __init__(self, prompts: Sequence[Tokens]) -> None:
        self.never = len(prompts)
        following: dict[int, int] = {}
        reverse: list[Tokens] = []
        for number in reversed(range(len(prompts))):
            prompt = prompts[number]
            reverse.append(Tokens("q", (following.get(block, self.never) for block in prompt)))
            following.update(dict.fromkeys(prompt, number))
        self._uses = reverse[::-1]

    def of(self, number: int) -> Tokens:
        """The next uses of one prompt's blocks."""
        return self._uses[number]

    def most_wanted(self, prompts: Sequence[Tokens]) -> int:
        """How many blocks there are, at most at one time, that were used and will be again."""
        most = 0
        wanted: set[int] = set()
        for prompt, uses in zip(prompts, self._uses, strict=True):
            wanted.update(prompt)
            wanted.difference_update(
                block for block, use in zip(prompt, uses, strict=True) if use == self.never
            )
            most = max(most, len(wanted))
        return most


class Optimum:
    """Keeps the blocks whose next use is nearest. A prompt and its answer are held while served."""

    def __init__(self, uses: NextUses, *, blocks: int) -> None:
        self._uses = uses
        self._capacity = blocks
        self._next: dict[int, int] = {}
        # The furthest next use first; of one prompt's blocks the deepest first.
        self._order: list[tuple[int, int, int]] = []

    def tell(self, hint: Hint, now_s: float) -> None:
        """It knows better."""

    def serve(self, request: Request, now_s: float) -> Found:
        """Find a prompt, and keep of all that is there what is used again soonest."""
        uses = self._uses.of(request.id.number)
        found = 0
        while found < len(request.prompt) and request.prompt[found] in self._next:
            found += 1
        self._next.update(zip(request.prompt, uses, strict=True))
        self._evict(len(self._next) + len(request.answer) - self._capacity)
        for depth, (block, use) in enumerate(zip(request.prompt, uses, strict=True)):
            if use < self._uses.never:
                heapq.heappush(self._order, (-use, -depth, block))
            else:
                del self._next[block]
        return Found(found)

    def _evict(self, blocks: int) -> None:
        while blocks > 0 and self._order:
            use, _, block = heapq.heappop(self._order)
            if self._next.get(block) == -use:
                del self._next[block]
                blocks -= 1
