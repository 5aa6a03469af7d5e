"""Hints that have come with requests, and are heard before a prefill or while it runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

IN_FRONT = 2
"""So many hints are heard before a prefill is planned: what one or two callers evict goes by what
they say now. Of a burst the others wait, or the prefill would wait for them, and more miss it."""
BEHIND = 8
"""So many are heard once a batch runs and answers are sent; each may take a millisecond."""


class Mailbox:
    """Requests (SGLang's `TokenizedGenerateReqInput`) whose hints nobody has looked at yet.

    Hints are heard in the order in which their requests came, at the latest before the cache is
    shown what a request has computed: what all ranks do in the same pass.
    """

    def __init__(self, hear: Callable[[Any], None]) -> None:
        self._hear = hear
        self._waiting: OrderedDict[str, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, request: Any) -> None:
        """A request has come."""
        self.hear_to(request.rid)  # clients choose names, and may choose one twice
        self._waiting[request.rid] = request

    def hear(self, most: int) -> None:
        """Hear so many of the hints that came first."""
        for _ in range(min(most, len(self._waiting))):
            self._hear(self._waiting.popitem(last=False)[1])

    def hear_in_front(self) -> None:
        """A prefill is about to be planned."""
        self.hear(IN_FRONT)

    def hear_behind(self) -> None:
        """A batch runs, and the answers of the one before are on their way; or nothing runs."""
        self.hear(BEHIND)

    def hear_to(self, rid: str) -> None:
        """Hear the hints up to this request's, if it waits."""
        while rid in self._waiting:
            self.hear(1)

    def hear_all(self) -> None:
        """Hear what is left, before anything else is told or asked."""
        self.hear(len(self._waiting))
