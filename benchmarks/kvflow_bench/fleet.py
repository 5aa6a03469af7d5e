"""The servers of a benchmark: started here, or given by their address."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.adapters import Adapters
from kvflow_bench.arms import ServerKind
from kvflow_sglang.server_process import ServerProcess

START_TIMEOUT_S = 540.0


@dataclass(frozen=True)
class Launch:
    """How servers are started: what all of them have in common."""

    model: str
    engine: str
    pool_tokens: int
    ceiling_tokens: int
    log_folder: Path
    flags: Sequence[str] = ()
    """Of `sglang serve`; they win."""
    host_flags: Sequence[str] = ()
    """The same, for servers with a host tier."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the plugin, in every server that has it."""
    env: Mapping[str, str] = field(default_factory=dict)
    adapters: Adapters | None = None
    start_timeout_s: float = START_TIMEOUT_S

    def arguments(self, kind: ServerKind) -> list[str]:
        """What follows `kvflow serve MODEL` for one kind of server."""
        tokens = self.ceiling_tokens if kind.fits_everything else self.pool_tokens
        return [
            *("--engine", self.engine),
            *kind.options(self.config),
            *("--max-total-tokens", str(tokens)),
            "--enable-metrics",
            *(self.host_flags if kind.has_host_tier else ()),
            *(self.adapters.options(kind) if self.adapters else ()),
            *self.flags,
        ]

    def process(self, kind: ServerKind) -> ServerProcess:
        """The server, not started yet."""
        return ServerProcess(
            self.model,
            self.arguments(kind),
            log=self.log_folder / f"{kind.name}.log",
            env=self.env,
            start_timeout_s=self.start_timeout_s,
        )

    def command_line(self, kind: ServerKind) -> str:
        """The same as one would type it, but for the port."""
        env = [f"{name}={value}" for name, value in self.env.items()]
        return shlex.join([*env, "kvflow", "serve", self.model, *self.arguments(kind)])


class Fleet:
    """Servers by name; a context manager that stops those it has started.

    Entering raises `ServerStartError` when one does not start.
    """

    def __init__(
        self,
        kinds: Iterable[ServerKind],
        given: Mapping[str, str],
        launch: Launch,
        *,
        commands: Mapping[str, str] | None = None,
        start_together: bool = False,
    ) -> None:
        """`given` holds the addresses of servers that run already; the others are started.

        `commands` says how those were started, as far as it is known.
        ConfigurationError if one has to be started and there is no model.
        """
        kinds = list(kinds)
        self.urls = {kind.name: given[kind.name] for kind in kinds if kind.name in given}
        missing = [kind for kind in kinds if kind.name not in given]
        if missing and not launch.model:
            names = ", ".join(kind.name for kind in missing)
            raise ConfigurationError(f"--model is needed to start the servers {names}")
        self._processes = {kind.name: launch.process(kind) for kind in missing}
        self.started = frozenset(self._processes)
        self.commands = dict(commands or {}) | {
            kind.name: launch.command_line(kind) for kind in missing
        }
        self._starts_together = start_together
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            for process in self._processes.values():
                self._stack.callback(process.stop)
            if self._starts_together:
                self._start_together()
            else:
                for process in self._processes.values():
                    process.start()
            self.urls |= {name: process.base_url for name, process in self._processes.items()}
            self._stack = self._stack.pop_all()
        return self

    def _start_together(self) -> None:
        pool = ThreadPoolExecutor(max(len(self._processes), 1))
        try:
            # All of them, or the first error.
            list(pool.map(ServerProcess.start, self._processes.values()))
        finally:
            # Who still waits for a server sees it end.
            pool.shutdown(wait=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def new_log_folder() -> Path:
    """A new folder for servers' logs, below the temporary one."""
    return Path(tempfile.mkdtemp(prefix="kvflow-bench-"))
