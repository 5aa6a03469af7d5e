from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvflow_bench.arms import SERVERS
from kvflow_bench.fleet import Fleet, Launch
from kvflow_sglang.server_process import ServerStartError

# Stands for `kvflow`: notes its process, and is ready unless it is to die or to wait.
FAKE = """
import http.server, os, signal, sys
# As servers do; a shell's background jobs, and what they start, would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
name = "ceiling" if "2000" in sys.argv else "lru" if "--stock" in sys.argv else "kvflow"
with open(os.environ["PIDS"], "a") as pids:
    print(name, os.getpid(), file=pids, flush=True)
if name == os.environ.get("DIES"):
    sys.exit("no such model")
ready = name != os.environ.get("WAITS")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if ready else 503)
        self.end_headers()

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
KINDS = [SERVERS["lru"], SERVERS["kvflow"], SERVERS["ceiling"]]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    (tmp_path / "kvflow").write_text(FAKE)
    (tmp_path / "python").symlink_to(sys.executable)
    monkeypatch.setenv("KVFLOW_SERVER_PYTHON", str(tmp_path / "python"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    return Launch("model", "gpu", 1000, 2000, tmp_path, host_flags=("--hicache-size", "24"))


def started(launch: Launch) -> dict[str, int]:
    path = launch.log_folder / "pids"
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: int(pid) for name, pid in map(str.split, lines)}


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_server_is_what_its_kind_says(launch: Launch) -> None:
    common = "--max-total-tokens 1000 --enable-metrics"
    assert launch.command_line(SERVERS["lru"]) == (
        f"kvflow serve model --engine gpu --stock {common}"
    )
    assert launch.command_line(SERVERS["kvflow"]) == (
        f"kvflow serve model --engine gpu --host-tier {common} --hicache-size 24"
    )
    assert "--max-total-tokens 2000" in launch.command_line(SERVERS["ceiling"])


@pytest.mark.parametrize("together", [False, True])
def test_only_what_is_not_given_is_started_and_all_of_it_stopped(
    launch: Launch, together: bool
) -> None:
    given = {"kvflow": "http://elsewhere:1", "unused": "http://elsewhere:2"}
    with Fleet(KINDS, given, launch, start_together=together) as fleet:
        pids = started(launch)
        assert set(pids) == {"lru", "ceiling"}
        assert set(fleet.urls) == {"lru", "kvflow", "ceiling"}
        assert fleet.urls["kvflow"] == "http://elsewhere:1"
    assert all(map(wait_until_gone, pids.values()))


def test_when_one_does_not_start_the_others_are_stopped(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", "kvflow")
    with pytest.raises(ServerStartError, match="no such model"):
        Fleet(KINDS, {}, launch).__enter__()
    pids = started(launch)
    assert set(pids) == {"lru", "kvflow"}
    assert all(map(wait_until_gone, pids.values()))


def test_a_command_that_is_ended_leaves_no_server(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAITS", "lru")
    code = "from kvflow_bench.cli import app; app()"
    arguments = ["run", "--engine", "gpu", "--model", "model", "--logs", str(launch.log_folder)]
    command = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not started(launch) and time.monotonic() < deadline:
            time.sleep(0.05)
        command.send_signal(signal.SIGTERM)
        assert command.wait(30) == 128 + signal.SIGTERM
    finally:
        command.kill()
    (pid,) = started(launch).values()
    assert wait_until_gone(pid)
