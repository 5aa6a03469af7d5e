"""Whose prompts go on from their own last prompt and its answer, as a client sees them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from kvflow_agents.hints import Hint

MAX_AGENTS = 2048

K = TypeVar("K")
V = TypeVar("V")


class _Prompt(NamedTuple):
    """One chat's messages: how many, and the hash of the last one."""

    length: int
    last: int


class Conversations:
    """Looks at each agent's prompts; of an app's agents the last look counts for all its runs."""

    def __init__(self, *, most_agents: int = MAX_AGENTS) -> None:
        self._most_agents = most_agents
        self._prompts: OrderedDict[tuple[str, str], _Prompt] = OrderedDict()
        self._grow: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many agents are remembered."""
        return max(len(self._prompts), len(self._grow))

    def see(self, hint: Hint, body: Mapping[str, Any]) -> bool:
        """An agent makes a request: whether its prompts were seen to go on from one another."""
        messages, agent = body.get("messages"), hint.agent or ""
        if not isinstance(messages, list) or not messages:
            return False
        kind, run = (hint.app or hint.workflow, agent), (hint.workflow, agent)
        prompt = _Prompt(len(messages), _hash(messages[-1]))
        with self._lock:
            before = self._prompts.get(run)
            if before is not None and before != prompt:  # the same again is a retry
                self._put(self._grow, kind, _goes_on(before, messages))
            self._put(self._prompts, run, prompt)
            return self._grow.get(kind, False)

    def _put(self, table: OrderedDict[K, V], key: K, value: V) -> None:
        table[key] = value
        table.move_to_end(key)
        if len(table) > self._most_agents:
            table.popitem(last=False)


def _goes_on(before: _Prompt, messages: list[Any]) -> bool:
    """Whether messages are a prompt's, an answer, and more."""
    if len(messages) <= before.length or _hash(messages[before.length - 1]) != before.last:
        return False
    answer = messages[before.length]
    return isinstance(answer, Mapping) and answer.get("role") == "assistant"


def _hash(message: object) -> int:
    return hash(json.dumps(message, sort_keys=True, default=repr))


conversations = Conversations()
"""Of this process."""
