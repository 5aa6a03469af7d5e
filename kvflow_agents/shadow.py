"""How far a cache was from the optimum: a shadow of LRU and of Belady's MIN on real requests."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

from kvflow_agents.prefix import Tokens

BLOCK_TOKENS = 64
FEWEST_BLOCKS = 256
# Of those that were used; some 16 MB.
MOST_KNOWN = 131_072
# A multiplier that spreads checksums evenly over the sample (Knuth, volume 3, section 6.4).
_SPREAD = 2_654_435_769
_HASHES = 1 << 32


def checksums(tokens: Tokens, block_tokens: int, namespace: object = None) -> list[int]:
    """One checksum for each whole block of a prompt, of all that precedes its end."""
    sums = []
    so_far = 0 if namespace is None else crc32(repr(namespace).encode())
    raw = memoryview(tokens).cast("B")
    size = block_tokens * tokens.itemsize
    for start in range(0, len(raw) - size + 1, size):
        so_far = crc32(raw[start : start + size], so_far)
        sums.append(so_far)
    return sums


class Shares(NamedTuple):
    """What of recent prompts needed no computing, in sampled blocks."""

    requests: int
    blocks: int
    cached: int
    """Found by the cache itself."""
    lru: int
    """What LRU would have found in as much room."""
    optimum: int
    """What no order of eviction could have bettered: Belady's MIN, as far as is remembered."""
    unsure: int
    """New, or used for the last time before all that is remembered: nobody can tell."""


class Shadow:
    """Replays a sample of the prompts through LRU and MIN. Pure, bounded, one pass, no future.

    The sample is of blocks, by a checksum of the prefix that ends with them, and the room is scaled
    like it (SHARDS, FAST '15). MIN needs no future because it is asked about the past: a block is
    found if it could have been kept since its last use, which is decided in the order of the
    requests by how much was promised since (OPTgen, ISCA '16). Requests count one after another,
    as if each needed room for its own prompt alone. Beyond `most_known` the blocks
    that were not used for longest are forgotten; `most_found` tells how much that can hide.
    """

    def __init__(
        self,
        capacity_tokens: int,
        *,
        block_tokens: int = 32,
        most_sampled: int = 4096,
        most_known: int = MOST_KNOWN,
        recent_requests: int = 1024,
    ) -> None:
        """At most `most_sampled` blocks stand for the capacity; `most_known` are remembered.
        Shares are those of the last `recent_requests`."""
        capacity = max(1, capacity_tokens // block_tokens)
        self.block_tokens = block_tokens
        self.rate = min(1.0, most_sampled / capacity)
        self._threshold = int(self.rate * _HASHES)
        self._capacity = max(1, round(capacity * self.rate))
        self._most_known = max(most_known, self._capacity)
        self._has_forgotten = False
        self._now = 0
        # When a block was used last; deeper blocks of a prompt before those above them.
        self._last_use: OrderedDict[int, int] = OrderedDict()
        self._lru: OrderedDict[int, None] = OrderedDict()
        self._promised = _Promised()
        self._recent: deque[Shares] = deque(maxlen=recent_requests)

    @classmethod
    def of_pool(cls, capacity_tokens: int) -> Shadow:
        """With blocks small enough for a small pool, and few for large prompts."""
        block_tokens = max(1, min(BLOCK_TOKENS, capacity_tokens // FEWEST_BLOCKS))
        return cls(capacity_tokens, block_tokens=block_tokens)

    def see(
        self, prompt: Sequence[int], cached_tokens: int, findable_tokens: int | None = None
    ) -> Shares:
        """A request with this chain was admitted, of which the cache had so many tokens.

        No cache has more than `findable_tokens`: a prompt's last token is always computed.
        """
        sampled = self._sampled(prompt)
        blocks = [prompt[place] for place in sampled[: self._capacity]]
        cached = bisect_left(sampled, cached_tokens // self.block_tokens)
        wanted = blocks
        if findable_tokens is not None:
            wanted = blocks[: bisect_left(sampled, findable_tokens // self.block_tokens)]
        self._now += 1
        lru = sum(1 for _ in _leading(wanted, self._lru))
        known = sum(1 for _ in _leading(wanted, self._last_use))
        optimum = self._found_by_min(wanted[:known])
        self._promised.use(self._now, len(blocks))
        unsure = len(wanted) - known if self._has_forgotten else 0
        shares = Shares(1, len(blocks), min(cached, len(wanted)), lru, optimum, unsure)
        self._recent.append(shares)
        self._use(blocks)
        return shares

    def recent(self) -> Shares:
        """The sums over the last requests."""
        return Shares(*map(sum, zip(Shares(0, 0, 0, 0, 0, 0), *self._recent, strict=True)))

    def most_found(self, shares: Shares) -> int:
        """What MIN has found at most, uses before all that is remembered included.

        Who keeps a block that long keeps it while `most_known` others are used, and no more than
        the capacity are kept at a time.
        """
        most_late = self._capacity + shares.blocks * self._capacity // self._most_known
        return shares.optimum + min(shares.unsure, most_late)

    def _sampled(self, prompt: Sequence[int]) -> Sequence[int]:
        """Which of a prompt's blocks are in the sample, by their places."""
        if self.rate == 1:
            return range(len(prompt))
        threshold = self._threshold
        return [at for at, each in enumerate(prompt) if each * _SPREAD % _HASHES < threshold]

    def _found_by_min(self, known: Sequence[int]) -> int:
        found = 0
        # Blocks of one prompt that were used together last time are one interval, many times.
        for since, together in groupby(known, self._last_use.__getitem__):
            wanted = sum(1 for _ in together)
            room = self._capacity - self._promised.most_since(since)
            kept = max(0, min(wanted, room))
            self._promised.keep(since, kept)
            found += kept
            if kept < wanted:
                break  # what lies below has waited as long, or longer
        return found

    def _use(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._last_use[block] = self._now
            self._last_use.move_to_end(block)
            self._lru[block] = None
            self._lru.move_to_end(block)
        while len(self._lru) > self._capacity:
            self._lru.popitem(last=False)
        while len(self._last_use) > self._most_known:
            self._last_use.popitem(last=False)
            self._has_forgotten = True


class _Promised:
    """How much MIN held at each request, as far as that can still matter.

    Intervals end now, whenever they began. So of two requests only the later one counts if as
    much was held then: what is kept is a falling sequence of peaks, at most one for each block of
    the capacity. Each is written as its drop to the next one, the last as it is: to hold more from
    some request on then changes two figures, not all that follow.
    """

    def __init__(self) -> None:
        self._times: list[int] = []
        self._drops: list[int] = []

    def most_since(self, time: int) -> int:
        """The most that was held at any request after `time`."""
        return sum(self._drops[bisect_right(self._times, time) :])

    def keep(self, time: int, blocks: int) -> None:
        """Hold more blocks at all requests after `time`."""
        first = bisect_right(self._times, time)
        if first < len(self._drops):
            self._drops[-1] += blocks
            self._lessen(first, blocks)

    def use(self, time: int, blocks: int) -> None:
        """A request holds its own blocks."""
        self._lessen(len(self._drops), blocks)
        self._times.append(time)
        self._drops.append(blocks)

    def _lessen(self, end: int, blocks: int) -> None:
        """What was held up to `end` exceeds what follows by so much less, or no more."""
        while end and self._drops[end - 1] <= blocks:
            end -= 1
            blocks -= self._drops.pop(end)
            del self._times[end]
        if end:
            self._drops[end - 1] -= blocks


def _leading(
    blocks: Sequence[int], known: OrderedDict[int, int] | OrderedDict[int, None]
) -> Iterator[int]:
    for block in blocks:
        if block not in known:
            return
        yield block
