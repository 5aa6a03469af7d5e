"""The results: one JSON document, to which every command adds a session and every run an entry."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kvflow_agents.errors import ConfigurationError

FORMAT = 1
# Of what a server says of itself: what decides its speed.
SERVER_SETTINGS = (
    "version",
    "model_path",
    "dtype",
    "device",
    "attention_backend",
    "radix_cache_backend",
    "page_size",
    "max_total_num_tokens",
    "max_running_requests",
    "chunked_prefill_size",
    "schedule_policy",
    "enable_hierarchical_cache",
    "hicache_ratio",
    "hicache_size",
    "hicache_write_policy",
    "hicache_io_backend",
    "hicache_mem_layout",
)


class Document:
    """The document of one command; `path` is None when nothing is written."""

    def __init__(self, path: Path | None, session: Mapping[str, Any]) -> None:
        """Raises `ConfigurationError` if `path` holds something else."""
        self._path = path
        self._sessions = load([path]) if path is not None and path.exists() else []
        self._session: dict[str, Any] = {**session, "servers": {}, "runs": []}
        self._sessions.append(self._session)

    @property
    def session(self) -> Mapping[str, Any]:
        """What this command has added."""
        return self._session

    def add_servers(self, servers: Mapping[str, Any]) -> None:
        """Say which servers the runs that follow come from; written with the next run."""
        self._session["servers"] |= servers

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a finished run and write the document, all or nothing."""
        self._session["runs"].append(run)
        self._write()

    def add_race(self, verdict: Mapping[str, Any]) -> None:
        """Say how this command's race test ended, and write the document likewise."""
        self._session["race"] = verdict
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        text = json.dumps({"format": FORMAT, "sessions": self._sessions})
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text + "\n")
        unfinished.replace(self._path)


def load(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The sessions of some documents. ConfigurationError if one cannot be read."""
    sessions: list[dict[str, Any]] = []
    for path in paths:
        try:
            document = json.loads(path.read_text())
            if document["format"] != FORMAT:
                raise ConfigurationError(f"{path} has format {document['format']}, not {FORMAT}")
            sessions += document["sessions"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(f"{path} holds no results of kvflow bench: {error}") from error
    return sessions


def runs_of(sessions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All runs, each with the number of its session: only within one are repeats pairs."""
    return [
        {**run, "session": number}
        for number, session in enumerate(sessions)
        for run in session["runs"]
    ]


def new_session(command: str) -> dict[str, Any]:
    """What a document says of one command, before there are servers and runs."""
    return {"command": command, "started_at": now(), "environment": environment()}


def environment() -> dict[str, Any]:
    """Where the measuring takes place."""
    return {
        "gpu": gpus(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sglang": _version("sglang"),
        "torch": _version("torch"),
        "kvflow": _version("kvflow-agents"),
    }


def now() -> str:
    """This moment as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def settings_of(server_info: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a server says of itself, the settings that decide its speed."""
    return {name: server_info[name] for name in SERVER_SETTINGS if name in server_info}


def gpus() -> list[str]:
    """The names of the GPUs that a driver shows."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return shown.stdout.split("\n")[:-1] if shown.returncode == 0 else []


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
