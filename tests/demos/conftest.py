"""One real server with the random model, for all demos that can use one already running."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvflow_sglang.server_process import ServerProcess, server_python

ROOT = Path(__file__).parents[2]

RunDemo = Callable[[str], dict[str, Any]]
"""Runs a demo against the server; what it writes."""


@pytest.fixture(scope="session")
def run_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDemo]:
    folder = tmp_path_factory.mktemp("demo")
    make = [str(server_python().with_name("kvflow")), "model", "tiny", str(folder / "tiny")]
    subprocess.run(make, check=True, capture_output=True)
    flags = ["--enable-metrics", "--skip-server-warmup", "--max-total-tokens", "16000"]
    # Without hints this server is to be like a stock one.
    flags += ["--kvflow-config", '{"infer": false}']
    with ServerProcess(folder / "tiny", flags, log=folder / "server.log") as server:

        def run(demo: str) -> dict[str, Any]:
            written = folder / f"{demo}.json"
            ran = subprocess.run(
                [sys.executable, str(ROOT / "demos" / f"{demo}.py"), "--model", "tiny"]
                + ["--base-url", f"{server.base_url}/v1", "--json", str(written)],
                capture_output=True,
                text=True,
                cwd=folder,
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert "identical under both policies" in ran.stdout
            loaded: dict[str, Any] = json.loads(written.read_text())
            return loaded

        yield run


def run_of(document: dict[str, Any], workload: str, policy: str) -> dict[str, Any]:
    """One workload's figures under one policy."""
    (found,) = (
        run for run in document["runs"] if run["workload"] == workload and run["policy"] == policy
    )
    return dict(found)
