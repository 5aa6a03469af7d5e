"""What changed between two texts: a time, an id, a number, an order, or something else."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal["time", "id", "number", "order", "cut", "other"]

# Runs of this length are looked up; whatever agrees for twice as long is found.
ANCHOR_CHARS = 32
# How far a value may reach to either side of the first character that differs.
VALUE_CHARS = 64

_DAY = r"(?:Mon|Tue(?:s)?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_CLOCK = (
    r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[AaPp][Mm]\b)?"
    r"(?:Z|\s?[+-]\d{2}:?\d{2}|\s(?:UTC|GMT))?"
)
_DATE = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"
    rf"|\d{{1,2}}\s{_MONTH}(?:,?\s\d{{4}})?|{_MONTH}\s\d{{1,2}}(?!:)(?:,?\s\d{{4}})?)"
)
_TIME = re.compile(
    rf"(?<![\w.])(?:(?:{_DAY},?\s)?{_DATE}(?:(?:T|_|,?\s(?:at\s)?){_CLOCK}(?:\s\d{{4}})?)?"
    rf"|{_CLOCK}|{_DAY}|20\d{{6}}(?:[T_-]?\d{{6}}Z?)?|1\d{{9}}(?:\d{{3}}){{0,3}}(?:\.\d+)?)(?!\w)"
)
_UUID = re.compile(r"(?<!\w)[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?!\w)")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_HEX = re.compile(r"[0-9a-fA-F]{8,}")
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A run of characters that two texts share, wherever it lies in each."""

    in_one: int
    in_other: int
    chars: int


def common_prefix_chars(one: str, other: str) -> int:
    """How many leading characters two texts share."""
    return len(os.path.commonprefix((one, other)))


def agreements(one: str, other: str) -> list[Agreement]:
    """What of `other` lies in `one` too, in the order of `other`: long runs, no single words."""
    anchors: dict[str, int] = {}
    for start in range(0, len(one) - ANCHOR_CHARS + 1, ANCHOR_CHARS):
        anchors.setdefault(one[start : start + ANCHOR_CHARS], start)
    found = []
    low = start = 0
    while start + ANCHOR_CHARS <= len(other):
        in_one = anchors.get(other[start : start + ANCHOR_CHARS])
        if in_one is None:
            start += 1
            continue
        while in_one and start > low and one[in_one - 1] == other[start - 1]:
            in_one, start = in_one - 1, start - 1
        chars = common_prefix_chars(one[in_one:], other[start:])
        found.append(Agreement(in_one, start, chars))
        low = start = start + chars
    return found


def have_same_words(one: str, other: str) -> bool:
    """Whether two texts hold the same words, at least two, in whatever order."""
    words = Counter(_WORDS.findall(one))
    return words.total() > 1 and words == Counter(_WORDS.findall(other))


def kind_of_change(one: str, other: str, at: int, shared: list[Agreement]) -> tuple[Kind, int]:
    """What kind of value differs first at character `at`, and at which character it begins.

    `shared` is what the texts share from `at` on, counted from there.
    """
    for pattern, kind in _VALUES:
        start = _common_start(pattern, one, other, at)
        if start is not None:
            return kind, start
    start = _word_start(one, at)
    if _is_reordered(one, other, at, start, shared):
        return "order", start
    return _kind_of_word(one, other, at, start)


_VALUES: tuple[tuple[re.Pattern[str], Kind], ...] = ((_UUID, "id"), (_TIME, "time"))


def _common_start(pattern: re.Pattern[str], one: str, other: str, at: int) -> int | None:
    start = _start_of(pattern, one, at)
    return start if start is not None and start == _start_of(pattern, other, at) else None


def _start_of(pattern: re.Pattern[str], text: str, at: int) -> int | None:
    for found in pattern.finditer(text, max(0, at - VALUE_CHARS), at + VALUE_CHARS):
        if found.start() <= at <= found.end():
            return found.start()
    return None


def _word_start(text: str, at: int) -> int:
    low = max(0, at - VALUE_CHARS)
    before = re.search(r"\w*\Z", text[low:at])
    return at if before is None else low + before.start()


def _is_reordered(one: str, other: str, at: int, start: int, shared: list[Agreement]) -> bool:
    ends = [(at + run.in_one, at + run.in_other) for run in shared]
    # A run may begin inside a word, and what precedes it may end alike by chance.
    for in_one, in_other in (*ends, (len(one), len(other))):
        rest = re.match(r"\w*", other[in_other : in_other + VALUE_CHARS])
        more = 0 if rest is None else rest.end()
        if have_same_words(one[start : in_one + more], other[start : in_other + more]):
            return True
    return False


def _kind_of_word(one: str, other: str, at: int, start: int) -> tuple[Kind, int]:
    number = _common_start(_NUMBER, one, other, at)
    word = _common_start(_WORD, one, other, at)
    if word is None:
        return ("other", start) if number is None else ("number", number)
    if number is not None and _are_numbered_alike(one[word:], other[word:], number - word):
        return "number", number
    words = [found.group() for text in (one, other) if (found := _WORD.match(text, word))]
    if all(_HEX.fullmatch(text) or _looks_random(text) for text in words):
        return "id", word
    return "other", start


def _are_numbered_alike(one: str, other: str, at: int) -> bool:
    """Whether two words are one but for the number at `at`: `step7` and `step8`."""
    tails = [_NUMBER.sub("", text[at:], count=1) for text in (one, other)]
    words = [_WORD.match(tail) for tail in tails]
    return len({found and found.group() for found in words}) == 1


def _looks_random(word: str) -> bool:
    has_digit = any(char.isdigit() for char in word)
    has_letter = any(char.isalpha() for char in word)
    return len(word) >= 6 and has_digit and has_letter
