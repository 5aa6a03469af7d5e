"""Servers as child processes, for tests, demos and benchmarks. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kvflow_agents.errors import KVFlowError

TAIL_LINES = 40
POLL_S = 0.25


class ServerStartError(KVFlowError):
    """The server died or was not ready in time; the message ends with the end of its log."""


def server_python() -> Path:
    """The Python of the environment that SGLang is installed in.

    `KVFLOW_SERVER_PYTHON`, else `.venv-server` of the checkout, else the running one.
    """
    if chosen := os.environ.get("KVFLOW_SERVER_PYTHON"):
        return Path(chosen)
    checkout = Path(__file__).parents[2]
    beside = checkout / ".venv-server" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


def free_port() -> int:
    """A port nobody listens on; another process could still take it before the server does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HTTPProcess:
    """A command that serves HTTP, in a process group of its own; a context manager.

    `start` blocks until it answers. `stop` ends the whole group and waits; it may be called at any
    time, any number of times. The log stays.
    """

    ready_path = "/health"

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: str | os.PathLike[str],
        port: int,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float,
    ) -> None:
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.log = Path(log)
        self._start_timeout_s = start_timeout_s
        self._argv = [*argv, "--host", "127.0.0.1", "--port", str(port)]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start and wait until ready; raises `ServerStartError`, having stopped what it started."""
        if self._process is not None:
            raise RuntimeError("this server was started before")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ask the server to end, kill what is left of its group after `timeout_s`, and wait."""
        if self._process is None or self._process.returncode is not None:
            return
        # Only the leader: it takes a child that ends first for a crash, and waits to diagnose it.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        self._kill_group(self._process)

    def kill(self) -> None:
        """End all of its processes at once, as a machine's failure would, and wait."""
        if self._process is not None and self._process.returncode is None:
            self._kill_group(self._process)

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def processes(self) -> set[int]:
        """The ids of the processes of its group that live."""
        if self._process is None:
            return set()
        stats = map(_stat_of, Path("/proc").glob("[0-9]*"))
        group = str(self._process.pid)
        # After its name: state, parent, group.
        return {pid for pid, state, _, its_group in stats if its_group == group and state != "Z"}

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._fail(f"the server ended with status {process.returncode} before it answered")
            if self._is_ready():
                return
            time.sleep(POLL_S)
        self._fail(f"the server did not answer within {self._start_timeout_s:.0f} s")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.base_url + self.ready_path, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _fail(self, what: str) -> None:
        raise ServerStartError(f"{what}; the end of {self.log}:\n{self.log_tail()}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class ServerProcess(HTTPProcess):
    """`kvflow serve MODEL [flags]`."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        flags: Sequence[str] = (),
        *,
        log: str | os.PathLike[str],
        port: int | None = None,
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout_s: float = 300.0,
    ) -> None:
        runs = Path(python) if python else server_python()
        super().__init__(
            [str(runs), str(runs.with_name("kvflow")), "serve", os.fspath(model), *flags],
            log=log,
            port=free_port() if port is None else port,
            # A health check that generates would leave a token in the cache under test.
            env={"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0", **os.environ, **(env or {})},
            start_timeout_s=start_timeout_s,
        )


class GatewayProcess(HTTPProcess):
    """SGLang's gateway, `smg launch`, before running servers; `is_installed` says if it can be."""

    ready_path = "/readiness"

    def __init__(
        self,
        worker_urls: Sequence[str],
        flags: Sequence[str] = (),
        *,
        log: str | os.PathLike[str],
        start_timeout_s: float = 60.0,
    ) -> None:
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
        super().__init__(
            [str(_gateway()), "launch", *flags, *metrics, "--worker-urls", *worker_urls],
            log=log,
            port=free_port(),
            start_timeout_s=start_timeout_s,
        )

    @staticmethod
    def is_installed() -> bool:
        """Whether the server's environment has it."""
        return _gateway().exists()


def _gateway() -> Path:
    return server_python().with_name("smg")


def _stat_of(process: Path) -> tuple[int, str, str, str]:
    try:
        state, parent, group = (process / "stat").read_text().rsplit(")", 1)[1].split()[:3]
    except (FileNotFoundError, ProcessLookupError):
        return int(process.name), "Z", "", ""
    return int(process.name), state, parent, group
