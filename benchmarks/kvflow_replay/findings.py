"""What was found in a trace besides its calls: what was skipped, what was mended, what is odd."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SHOWN_LINES = 5
MAX_FIELD_NAMES = 64


@dataclass(slots=True)
class Findings:
    """Counts of lines, by what was wrong with them."""

    lines: int = 0
    calls: int = 0
    block_tokens: int | None = None
    """The trace's block size; None: no call yet."""
    estimated_calls: int = 0
    """Calls whose lengths are estimates."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Lines that hold no call."""
    mended: Counter[str] = field(default_factory=Counter)
    """Calls that were kept, after a change or with a doubt."""
    unknown_fields: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    longest_gap_s: float = 0.0

    def skip(self, reason: str, detail: str = "") -> None:
        """The line being read holds no call."""
        self.skipped[reason] += 1
        if len(self.examples) < SHOWN_LINES:
            self.examples.append(f"line {self.lines}: {reason}{detail and ': ' + detail[:80]}")

    def note_unknown(self, names: set[str]) -> None:
        """The line being read has fields that mean nothing here."""
        for name in names:
            known = name in self.unknown_fields or len(self.unknown_fields) < MAX_FIELD_NAMES
            self.unknown_fields[name[:64] if known else "others"] += 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "lines": self.lines,
            "calls": self.calls,
            "block_tokens": self.block_tokens,
            "estimated_calls": self.estimated_calls,
            "skipped": dict(self.skipped),
            "mended": dict(self.mended),
            "unknown_fields": dict(self.unknown_fields),
            "examples": list(self.examples),
            "longest_gap_s": self.longest_gap_s,
        }
