"""Records the prompts of model calls for `kvflow lint`, text and all (docs/lint.md)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvflow_agents.call_log import agent_of_app
from kvflow_agents.hints import Hint
from kvflow_agents.trace_file import TraceFile

VARIABLE = "KVFLOW_LINT_RECORD"
# Of a body all that a prompt is rendered from.
FIELDS = ("model", "messages", "tools", "prompt")


class PromptRecorder:
    """Appends to a file what agents send, a line for each call. Only on demand: it is the text."""

    def __init__(self, path: Path) -> None:
        self.file = TraceFile(path)

    def see(self, hint: Hint, body: Mapping[str, Any]) -> None:
        """A call is made; its body may change afterwards."""
        said = {name: body[name] for name in FIELDS if body.get(name)}
        agent = agent_of_app(hint.agent or "", hint.app)
        # A copy of plain values, which can be written later.
        self.file.put(_Line(json.loads(json.dumps({"agent": agent, **said}, default=str))))


class _Line:
    is_complete = True

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def values(self) -> Mapping[str, Any]:
        return self._values


def prompt_recorder() -> PromptRecorder | None:
    """The process's, if the environment names a file: `KVFLOW_LINT_RECORD=calls.jsonl`."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    with _lock:
        if path not in _of_process:
            _of_process[path] = PromptRecorder(Path(path).absolute())
        return _of_process[path]


_of_process: dict[str, PromptRecorder] = {}
_lock = threading.Lock()
