"""Records model calls as a trace (docs/replay.md): lengths, hashes, times, agents, never text."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvflow_agents.hints import Hint
from kvflow_agents.prompt_parts import Prompt, prompt_of
from kvflow_agents.trace_file import TraceFile
from kvflow_agents.trace_hashes import BLOCK_TOKENS, Salt, estimated_tokens

VARIABLE = "KVFLOW_RECORD"
SALT_VARIABLE = "KVFLOW_RECORD_SALT"
VERSION = 1


class RecordedCall:
    """One call under way; it becomes a line when it has ended."""

    def __init__(self, recorder: Recorder, hint: Hint, model: str, prompt: Prompt) -> None:
        self._recorder = recorder
        self._hint = hint
        self._model = model
        self._prompt = prompt
        self._at_ms = int(time.time() * 1000)
        self._started_s = time.perf_counter()
        self._latency_ms = 0
        self._usage: dict[str, int | None] | None = None
        self._id = os.urandom(8).hex()

    @property
    def is_complete(self) -> bool:
        """Whether the answer's length is known; a raw response tells it after its end."""
        return self._usage is not None

    def use(self, prompt_tokens: int, cached_tokens: int | None, output_tokens: int | None) -> None:
        """What the response says it used."""
        self._usage = {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "output_tokens": output_tokens,
        }

    def end(self) -> None:
        """The answer is complete, or nobody wants the rest."""
        self._latency_ms = int((time.perf_counter() - self._started_s) * 1000)
        self._recorder.file.put(self)

    def values(self) -> Mapping[str, Any]:
        """The trace's line; docs/replay.md has its fields."""
        parts = [f"{part.place}\x1f{part.text}" for part in self._prompt]
        text = "\x1e".join([self._model, *parts])
        usage = {name: value for name, value in (self._usage or {}).items() if value is not None}
        return {
            "v": VERSION,
            "id": self._id,
            "at_ms": self._at_ms,
            "latency_ms": self._latency_ms,
            "workflow": self._recorder.salt.name(self._hint.workflow),
            "agent": self._hint.agent,
            "app": self._hint.app,
            "prompt_tokens": estimated_tokens(text),
            "output_tokens": usage.get("output_tokens"),
            "hash_ids": self._recorder.salt.blocks(text),
            "block_tokens": BLOCK_TOKENS,
            "is_estimated": True,
            **({"usage": usage} if usage else {}),
        }


class _End:
    """A workflow is over, or pauses."""

    is_complete = True

    def __init__(self, kind: str, workflow: str) -> None:
        at_ms = int(time.time() * 1000)
        self._line = {"v": VERSION, "kind": kind, "at_ms": at_ms, "workflow": workflow}

    def values(self) -> Mapping[str, Any]:
        return self._line


class Recorder:
    """Takes note of hinted calls, which one file's trace gets when they have ended."""

    def __init__(self, path: Path, salt: Salt) -> None:
        self.file = TraceFile(path)
        self.salt = salt

    def begin(self, hint: Hint, body: Mapping[str, Any]) -> RecordedCall:
        """A call is made; its body may change afterwards. ValueError if it has no prompt."""
        return RecordedCall(self, hint, str(body.get("model")), prompt_of(body))

    def end(self, hint: Hint) -> None:
        """A workflow is over, or else pauses, as its last hint says."""
        kind = "end" if hint.forecast.done else "pause"
        self.file.put(_End(kind, self.salt.name(hint.workflow)))


def call_recorder() -> Recorder | None:
    """The process's, if the environment names a file: `KVFLOW_RECORD=trace.jsonl`."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    with _lock:
        if path not in _of_process:
            _of_process[path] = Recorder(Path(path).absolute(), _salt)
        return _of_process[path]


_of_process: dict[str, Recorder] = {}
_salt = Salt.of(os.environ.get(SALT_VARIABLE))
_lock = threading.Lock()
