"""The server that faults happen to: killed, started again on the same port, and measured."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from kvflow_agents.errors import KVFlowError
from kvflow_faults import instruments
from kvflow_sglang import cpu_engine
from kvflow_sglang.server_process import ServerProcess, free_port

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
POLL_S = 0.1
TAIL_LINES = 30
DEATH_S = 120.0


class Victim:
    """A server at one address over several lives; a context manager that ends the last of them.

    `outages` are the times, by `time.monotonic`, when it was known to be dead: from just before a
    kill to the first answer after it. None as an end: still dead.
    """

    def __init__(self, model: Path, flags: Sequence[str], folder: Path) -> None:
        self._model = model
        self._flags = flags
        self._folder = folder
        self._switches = folder / "switches.json"
        self._port = free_port()
        self.base_url = f"http://127.0.0.1:{self._port}"
        self.lives = 0
        self.outages: list[tuple[float, float | None]] = []
        self._process: ServerProcess | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stop()

    async def live(self) -> None:
        """Live: a new life if it has none, or has died."""
        if self._process is None or self.has_died:
            await self._stop()
            await self._start()

    async def kill_and_restart(self) -> None:
        """SIGKILL to all of its processes, and a new life."""
        self.outages.append((time.monotonic(), None))
        await self._restart()

    async def kill_in_prefetch_and_restart(self) -> None:
        """Let the scheduler die with a copy ahead of its request under way, and a new life."""
        self.outages.append((time.monotonic(), None))
        self.switch(dies_in_prefetch=True)
        processes = self.processes()
        until = time.monotonic() + DEATH_S
        while self.processes() >= processes:
            if time.monotonic() > until:
                raise KVFlowError(f"nothing was loaded in {DEATH_S:.0f} s")
            await asyncio.sleep(POLL_S)
        self.switch()
        await self._restart()

    def switch(self, **switches: object) -> None:
        """Turn these switches of the instruments on, and all others off."""
        new = self._switches.with_suffix(".new")
        new.write_text(json.dumps(switches))
        new.replace(self._switches)

    def was_dead(self, since: float, until: float) -> bool:
        """Whether it was dead at some time between the two."""
        return any(start <= until and (end is None or end >= since) for start, end in self.outages)

    @property
    def is_stock(self) -> bool:
        """Whether it is a server without kvflow, which tells nothing of itself."""
        return "--stock" in self._flags

    @property
    def has_died(self) -> bool:
        """Whether it has ended of itself."""
        is_killed = bool(self.outages) and self.outages[-1][1] is None
        return not is_killed and not self.processes()

    def processes(self) -> set[int]:
        """The ids of its processes that live."""
        assert self._process is not None, "it was never started"
        return self._process.processes()

    def resident_bytes(self) -> dict[str, int]:
        """The memory of its processes by name; pages that they share count in each."""
        found: Counter[str] = Counter()
        for process in self.processes():
            found[_name_of(process)] += _resident_bytes(process)
        return dict(found)

    def log_tail(self) -> str:
        """The end of the log of this life."""
        assert self._process is not None, "it was never started"
        return self._process.log_tail(TAIL_LINES)

    async def _start(self) -> None:
        """For the first time or again; ServerStartError if it does not."""
        self.lives += 1
        env = instruments.CHECKS | {
            "SGLANG_PLUGINS": "kvflow_faults",
            instruments.VARIABLE: str(self._switches),
            # For a model this small, threads of several cores only wait for each other.
            cpu_engine.CORES_VARIABLE: str(max(os.sched_getaffinity(0))),
        }
        log = self._folder / f"server-{self.lives}.log"
        self._process = ServerProcess(self._model, self._flags, log=log, port=self._port, env=env)
        await asyncio.to_thread(self._process.start)
        if self.outages and self.outages[-1][1] is None:
            self.outages[-1] = (self.outages[-1][0], time.monotonic())

    async def _stop(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)

    async def _restart(self) -> None:
        assert self._process is not None, "it was never started"
        await asyncio.to_thread(self._process.kill)
        await self._start()


def _name_of(process: int) -> str:
    """`scheduler` and so on; the HTTP process and its helper have no names of their own."""
    title = _read(process, "cmdline").split("\0")[0]
    return title.partition("::")[2] or "http"


def _resident_bytes(process: int) -> int:
    pages = _read(process, "statm").split()
    return int(pages[1]) * PAGE_BYTES if pages else 0


def _read(process: int, file: str) -> str:
    try:
        return Path(f"/proc/{process}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
