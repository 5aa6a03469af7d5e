"""Our own server passes the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvflow_agents.conformance_suite import Case, Runner, load_cases
from kvflow_agents.inquiry import Inquiries
from kvflow_agents.servers import Server
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import FLAGS

KEY = "sesame"
CASES = load_cases()


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("conformance") / "server.log"
    with ServerProcess(tiny_model, [*FLAGS, "--api-key", KEY], log=log) as process:
        yield Server(process.base_url, KEY)


@pytest.fixture(scope="module")
def runner(server: Server) -> Runner:
    return Runner(server)


@pytest.mark.parametrize("case", CASES, ids=[f"{each.suite}: {each.name}" for each in CASES])
def test_the_server_does_as_the_suite_says(runner: Runner, case: Case) -> None:
    assert runner.run(case).fault is None


def test_it_says_what_it_speaks_to_clients_that_ask(server: Server) -> None:
    inquiries = Inquiries(timeout_s=30)
    inquiries.dialect_of(server)
    inquiries.settle(60)
    assert inquiries.dialect_of(server) == "kvflow"
    stranger = Inquiries(timeout_s=30)
    stranger.dialect_of(Server(server.root_url, "another key"))
    stranger.settle(60)
    assert stranger.dialect_of(Server(server.root_url)) == "none"
