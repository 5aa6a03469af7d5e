from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from kvflow_sglang import server_process
from kvflow_sglang.server_process import ServerProcess, ServerStartError

# Stands for `kvflow`: says what it was called with, starts a child, answers the third time.
FAKE = """
import http.server, os, signal, subprocess, sys
# As servers do; a shell's background jobs, and what they start, would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("called with", *sys.argv[1:], flush=True)
if "--die" in sys.argv:
    sys.exit("no such model")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        ready = "--never" not in sys.argv and Handler.asked >= 3
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(str(Handler.asked).encode())

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python with a stand-in for `kvflow` beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kvflow").write_text(FAKE)
    (folder / "python").symlink_to(sys.executable)
    return folder / "python"


def child_of(server: ServerProcess) -> int:
    (line,) = (line for line in server.log.read_text().splitlines() if line.startswith("child"))
    return int(line.split()[1])


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not lives(pid)


def test_it_waits_until_ready_and_ends_the_whole_group(tmp_path: Path, python: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with ServerProcess("m", ["--stock"], log=log, python=python) as server:
        with urllib.request.urlopen(server.base_url) as answer:
            assert int(answer.read()) == 4  # two refusals, one readiness, this one
        child = child_of(server)
        assert lives(child)
    assert wait_until_gone(child)
    server.stop()
    expected = f"called with serve m --stock --host 127.0.0.1 --port {server.port}"
    assert log.read_text().splitlines()[0] == expected


def test_a_server_that_dies_early_is_reported_with_its_last_words(
    tmp_path: Path, python: Path
) -> None:
    server = ServerProcess("m", ["--die"], log=tmp_path / "log", python=python)
    with pytest.raises(ServerStartError, match=r"status 1 [\s\S]*no such model"):
        server.start()


def test_a_server_that_never_answers_is_ended(tmp_path: Path, python: Path) -> None:
    server = ServerProcess(
        "m", ["--never"], log=tmp_path / "log", python=python, start_timeout_s=3.0
    )
    with pytest.raises(ServerStartError, match="did not answer within 3 s"):
        server.start()
    assert wait_until_gone(child_of(server))


def test_variables_of_the_caller_win(tmp_path: Path, python: Path) -> None:
    (python.parent / "kvflow").write_text(
        "import os, sys; sys.exit(os.environ['SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION'])"
    )
    for env, status in ((None, "0"), ({"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "yes"}, "yes")):
        server = ServerProcess("m", log=tmp_path / "log", python=python, env=env)
        with pytest.raises(ServerStartError, match=rf"{status}$"):
            server.start()


def test_the_servers_python_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFLOW_SERVER_PYTHON", "/elsewhere/bin/python")
    assert server_process.server_python() == Path("/elsewhere/bin/python")
    monkeypatch.delenv("KVFLOW_SERVER_PYTHON")
    assert os.access(server_process.server_python(), os.X_OK)
