"""What an agent's next prompt will very likely share with its last one."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, TypeAlias

# Of typecode "q", as SGLang keeps token ids. Subscripting `array` needs Python 3.12.
if TYPE_CHECKING:
    Tokens: TypeAlias = array[int]
else:
    Tokens = array


def common_prefix_tokens(one: Tokens, other: Tokens) -> int:
    """How many leading tokens two sequences share. Gallops: O(shared) in C, not in Python."""
    most = min(len(one), len(other))
    low, stride = 0, 64
    while low < most:
        high = min(low + stride, most)
        if one[low:high] != other[low:high]:
            return low + _bisect(one[low:high], other[low:high])
        low = high
        stride *= 2
    return most


def _bisect(one: Tokens, other: Tokens) -> int:
    low, high = 0, len(one)
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# How much one prompt changes what is known of the last ones.
GROWTH_WEIGHT = 0.3


class PrefixHistory:
    """Learns one agent's prefix from its prompts, one after another.

    The prefix is the longest common prefix of the last two prompts. If the last prompt came back
    whole, the agent keeps a growing history, and its prefix is everything it has said and heard.
    Until there are two prompts, `like` (another run's prompts of the same agent) or else the
    whole prompt stands in; the whole prompt also if the agent `grows` in other runs, or if it
    `differs` between runs. If that is not known, a prompt of which most is another run's does not.
    """

    def __init__(
        self, like: Tokens | None = None, *, grows: bool = False, differs: bool | None = None
    ) -> None:
        self.tokens: Tokens | None = like
        self._differs = differs
        self.prefix_tokens = 0
        self.prompts = 0
        # How often a prompt came back whole, of late: within a run, and after a pause.
        self._growth: dict[bool, float | None] = {False: float(grows), True: None}
        self._begun_anew_at: int | None = None
        self._last_prompt_tokens: int | None = None
        self._grows = grows

    @property
    def tokens_kept(self) -> int:
        """How many tokens this history keeps."""
        return 0 if self.tokens is None else len(self.tokens)

    @property
    def grows(self) -> bool:
        """Whether the agent keeps a growing history, as far as it is known."""
        return self._grows

    @property
    def other_tokens(self) -> int | None:
        """Another prefix that may come back; None if there is none.

        Of a growing history: what came back when it was last begun anew, a part of the prefix.
        Of another: all of the last prompt.
        """
        if self._grows:
            return self._begun_anew_at
        return self.tokens_kept if any(self._growth.values()) else None

    def growth(self, *, after_pause: bool) -> float:
        """How likely the next prompt holds all of the last one."""
        seen = self._growth[after_pause]
        return float(self._growth[False] or 0.0) if seen is None else seen

    def see_prompt(self, prompt: Tokens, *, after_pause: bool = False) -> None:
        """The agent sent a prompt; `after_pause`: the run of its last one is over."""
        shared = len(prompt)
        if self.tokens is not None:
            shared = common_prefix_tokens(self.tokens, prompt)
            if self.prompts == 0 and self._is_own(shared, prompt):
                shared = len(prompt)
        last = self._last_prompt_tokens
        if last is not None:
            self._grows = shared >= last
            before = self._growth[after_pause]
            if before is None or self.prompts == 1:
                before = float(self._grows)
            self._growth[after_pause] = before + GROWTH_WEIGHT * (self._grows - before)
            if not self._grows:
                self._begun_anew_at = shared
        self.prefix_tokens = len(prompt) if self._grows else shared
        self.prompts += 1
        self.tokens = prompt
        self._last_prompt_tokens = len(prompt)

    def _is_own(self, shared: int, prompt: Tokens) -> bool:
        """Whether a run's first prompt goes on after what it shares with other runs'."""
        return 2 * shared < len(prompt) if self._differs is None else self._differs

    def see_answer(self, prompt_and_answer: Tokens) -> None:
        """The prompt was answered; the next one may hold the answer too."""
        self.tokens = prompt_and_answer
        if self._grows:
            self.prefix_tokens = len(prompt_and_answer)
