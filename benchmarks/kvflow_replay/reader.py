"""Reads a trace line by line. Whatever a line holds, it is a call, an end, or counted."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from itertools import count
from typing import Any, BinaryIO

from kvflow_agents.prefix import Tokens
from kvflow_replay.calls import Call, End, Event
from kvflow_replay.fields import (
    MAX_HASHES,
    MOONCAKE_BLOCK_TOKENS,
    BadField,
    Fields,
    fields_of,
    known_fields,
)
from kvflow_replay.findings import Findings

MAX_LINE_BYTES = 64 * 2**20
GAP_S = 3600.0
# Calls that end at once may be written in another order.
CLOCK_SLACK_S = 0.1
# Bounds what is remembered to tell repeats, and where sessions are.
MAX_REMEMBERED = 65_536
# Chained hashes stay below it; blocks that nobody shares are counted from it.
FIRST_UNSHARED = 2**62

_unshared = count(FIRST_UNSHARED)


def unshared(blocks: int) -> Tokens:
    """Blocks that come only once."""
    return Tokens("q", (next(_unshared) for _ in range(blocks)))


class Reader:
    """Iterates over a trace in the file's order; `findings` says what else there was.

    Memory does not grow with the file. Of several block sizes the first call's counts.
    """

    def __init__(self, file: BinaryIO, *, block_tokens: int = MOONCAKE_BLOCK_TOKENS) -> None:
        self.findings = Findings()
        self._file = file
        self._mooncake_block_tokens = block_tokens
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._clock_s: float | None = None

    def __iter__(self) -> Iterator[Event]:
        for line in self._lines():
            self.findings.lines += 1
            if not line.strip():
                self.findings.skip("an empty line")
                continue
            try:
                event = self._event(line)
            except BadField as bad:
                self.findings.skip(str(bad))
                continue
            if event is not None:
                self.findings.calls += isinstance(event, Call)
                yield event

    def _lines(self) -> Iterator[bytes]:
        while line := self._file.readline(MAX_LINE_BYTES):
            yield line
            while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = self._file.readline(MAX_LINE_BYTES)

    def _event(self, line: bytes) -> Event | None:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            if len(line) >= MAX_LINE_BYTES:
                raise BadField("too long") from None
            # Only the last line of a file can lack its end.
            raise BadField("not JSON" if line.endswith(b"\n") else "cut short") from None
        if not isinstance(values, dict):
            raise BadField("not an object")
        fields = fields_of(values, self._mooncake_block_tokens)
        if unknown := values.keys() - known_fields(values):
            self.findings.note_unknown(unknown)
        if fields.id is not None and self._is_repeated(fields.id):
            raise BadField("a repeated call")
        at_s = self._time_s(fields)
        if fields.is_end:
            return End(at_s, fields.workflow or "", fields.is_resumable)
        if fields.prompt_tokens > MAX_HASHES * fields.block_tokens:
            raise BadField("too many blocks")
        if self.findings.block_tokens not in (None, fields.block_tokens):
            raise BadField("another block size")
        self.findings.block_tokens = fields.block_tokens
        self.findings.estimated_calls += fields.is_estimated
        return Call(
            at_s,
            fields.prompt_tokens,
            fields.output_tokens,
            self._blocks(fields),
            fields.workflow,
            fields.agent,
            fields.app,
            fields.latency_ms / 1000,
            None if fields.at_ms is not None else fields.delay_ms / 1000,
        )

    def _is_repeated(self, id: str) -> bool:
        if id in self._seen:
            return True
        _remember(self._seen, id, None)
        return False

    def _time_s(self, fields: Fields) -> float:
        if fields.at_ms is None:
            ended_s = self._sessions.get(fields.workflow or "")
            if ended_s is None:
                raise BadField("a delay after no call")
            at_s = ended_s + fields.delay_ms / 1000
        else:
            at_s = fields.at_ms / 1000
            # A recorder writes a call when it ends.
            self._watch_clock(at_s + fields.latency_ms / 1000)
        if fields.workflow is not None:
            _remember(self._sessions, fields.workflow, at_s + fields.latency_ms / 1000)
        return at_s

    def _watch_clock(self, clock_s: float) -> None:
        step_s = 0.0 if self._clock_s is None else clock_s - self._clock_s
        if step_s < -CLOCK_SLACK_S:
            self.findings.mended["clock went back: put in order"] += 1
        elif step_s > GAP_S:
            self.findings.mended["a gap of over an hour before it"] += 1
        self.findings.longest_gap_s = max(self.findings.longest_gap_s, step_s)
        self._clock_s = clock_s

    def _blocks(self, fields: Fields) -> Tokens:
        """The hashes, each chained to those before it, as many as the prompt has blocks."""
        wanted = -(-fields.prompt_tokens // fields.block_tokens)
        given = len(fields.hash_ids)
        if given > wanted:
            self.findings.mended["more hashes than the prompt has blocks: cut"] += 1
        elif given < wanted:
            self.findings.mended["fewer hashes than the prompt has blocks: the rest is new"] += 1
        blocks, so_far = Tokens("q"), 0
        for each in fields.hash_ids[:wanted]:
            so_far = hash((so_far, each)) % FIRST_UNSHARED
            blocks.append(so_far)
        return blocks + unshared(wanted - given)


def _remember(remembered: OrderedDict[str, Any], key: str, value: Any) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
