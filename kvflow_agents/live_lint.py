"""Warnings, while an application runs, of prompts that no prefix cache can help."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from kvflow_agents.failsafe import logger
from kvflow_agents.prefix_lint import PrefixLint

VARIABLE = "KVFLOW_LINT"
# Bounds what is kept of prompts: 8 million characters in all.
MAX_AGENTS = 256
MAX_CHARS = 32_768


class LiveLint:
    """Logs, once for each agent and place, that a prompt breaks the prefix of the last one."""

    def __init__(self) -> None:
        self._lint = PrefixLint(most_agents=MAX_AGENTS, most_chars=MAX_CHARS)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many agents are remembered."""
        return len(self._lint)

    def see(self, app: str, agent: str, body: Mapping[str, Any]) -> None:
        """An agent of an application makes a request; it is not changed."""
        with self._lock:
            broken = self._lint.see(f"{app}\n{agent}", body)
        if broken is not None:
            logger.warning(
                "%s breaks its own prefix in %s, character %d (%s: %r, then %r): about %d tokens "
                "behind it are computed anew in each such call; %s",
                agent,
                broken.place,
                broken.char,
                broken.kind,
                broken.before,
                broken.after,
                broken.lost_tokens,
                broken.advice,
            )


def live_lint() -> LiveLint | None:
    """The process's, if the environment turns it on: `KVFLOW_LINT=1`."""
    return _of_process if os.environ.get(VARIABLE) == "1" else None


_of_process = LiveLint()
