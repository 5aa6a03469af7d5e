"""SGLang's gateway before two kvflow servers, with a client that tells both of every call."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import pytest

import kvflow_agents
from kvflow_agents.routers import WORKERS_VARIABLE
from kvflow_sglang.server_process import GatewayProcess, ServerProcess
from tests.sglang.agents_in_turn import FLAGS, PREFIX_TOKENS, prompt_of
from tests.sglang.kvflow_client import Client, wait_until

pytestmark = pytest.mark.skipif(
    not GatewayProcess.is_installed(), reason="needs smg: pip install kvflow-agents[gateway]"
)

# Sooner or later each server has an agent: between equals the gateway draws lots.
MOST_AGENTS = 20
ROOM_FOR_ALL = ("--max-total-tokens", str((MOST_AGENTS + 1) * PREFIX_TOKENS))
FLEET_FLAGS = [*FLAGS, *ROOM_FOR_ALL, "--served-model-name", "tiny"]
POLICY = ("--policy", "manual", "--assignment-mode", "min_group")
# Longer than any call here takes, and than the patience of the impatient client.
REQUEST_TIMEOUT_S, PATIENCE_S = 10, 3.0
TIMEOUT = ("--request-timeout-secs", str(REQUEST_TIMEOUT_S))
# Checked often, so that a test need not wait.
HEALTH = (
    *("--health-check-interval-secs", "1", "--health-check-timeout-secs", "3"),
    *("--health-failure-threshold", "1", "--health-success-threshold", "1"),
)


@dataclass
class Fleet:
    """A gateway and the servers behind it."""

    gateway: GatewayProcess
    servers: list[ServerProcess]
    sdk: openai.OpenAI
    calls: int = 0

    def call(self, agent: int) -> tuple[str, int]:
        """The address of the server that has answered, and how much it found in its cache."""
        self.calls += 1
        with kvflow_agents.agent(f"agent{agent}"):
            raw = self.sdk.completions.with_raw_response.create(
                model="tiny", prompt=prompt_of(agent, self.calls), max_tokens=4, temperature=0
            )
        usage = raw.parse().usage
        assert usage is not None and usage.prompt_tokens_details is not None
        return raw.headers["x-smg-routed-worker-id"], usage.prompt_tokens_details.cached_tokens or 0

    @contextmanager
    def hanging(self, address: str) -> Iterator[None]:
        """The server at this address is stopped, and goes on in the end."""
        (server,) = (each for each in self.servers if each.base_url == address)
        processes = server.processes()
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def homes(self) -> list[str]:
        """Where agents' calls go, in order, until both servers have had one."""
        homes: list[str] = []
        while len(set(homes)) < 2:
            assert len(homes) < MOST_AGENTS, f"all go to {homes[0]}"
            homes.append(self.call(len(homes))[0])
        return homes

    def are_healthy(self) -> bool:
        workers = Client(self.gateway.base_url).get("/workers").body["workers"]
        return len(workers) == 2 and all(worker["is_healthy"] for worker in workers)


@pytest.fixture(scope="module")
def fleet(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    logs = tmp_path_factory.mktemp("gateway")
    servers = [ServerProcess(tiny_model, FLEET_FLAGS, log=logs / f"{at}.log") for at in range(2)]
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        for server in servers:
            stack.callback(server.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(ServerProcess.start, servers))
        urls = [server.base_url for server in servers]
        log = logs / "gateway.log"
        gateway = stack.enter_context(GatewayProcess(urls, [*POLICY, *HEALTH, *TIMEOUT], log=log))
        environment.setenv(WORKERS_VARIABLE, f"{gateway.base_url}={','.join(urls)}")
        url = f"{gateway.base_url}/v1"
        sdk = stack.enter_context(openai.OpenAI(base_url=url, api_key="none", max_retries=0))
        fleet = Fleet(gateway, servers, sdk)
        wait_until(fleet.are_healthy)
        yield fleet


@pytest.fixture
def workflow(fleet: Fleet) -> Iterator[None]:
    with kvflow_agents.workflow("run", base_urls=[f"{fleet.gateway.base_url}/v1"]):
        yield


def test_agents_stay_where_their_prefix_is(fleet: Fleet, workflow: None) -> None:
    homes = fleet.homes()
    assert set(homes) == {server.base_url for server in fleet.servers}
    for _ in range(2):
        for agent, home in enumerate(homes):
            server, cached_tokens = fleet.call(agent)
            assert server == home and cached_tokens >= PREFIX_TOKENS


def test_forecasts_and_ends_reach_both_servers(fleet: Fleet) -> None:
    def known() -> list[int]:
        return [Client(server.base_url).counted("workflows") for server in fleet.servers]

    wait_until(lambda: known() == [0, 0])
    with kvflow_agents.workflow("told", base_urls=[f"{fleet.gateway.base_url}/v1"]):
        fleet.call(0)
        wait_until(lambda: known() == [1, 1])
    wait_until(lambda: known() == [0, 0])


def test_a_server_that_hangs_loses_no_calls_and_gets_its_agents_back(
    fleet: Fleet, workflow: None
) -> None:
    home, _ = fleet.call(0)
    with fleet.hanging(home):
        elsewhere, _ = fleet.call(0)  # by a client that waits for ever and tries once
    assert elsewhere != home
    wait_until(lambda: fleet.call(0)[0] == home)
    assert fleet.call(0)[1] >= PREFIX_TOKENS


def test_a_client_may_give_up_on_a_server_that_hangs_and_try_again(
    fleet: Fleet, workflow: None
) -> None:
    wait_until(fleet.are_healthy)
    home, _ = fleet.call(0)
    impatient = fleet.sdk.with_options(timeout=PATIENCE_S, max_retries=3)
    with fleet.hanging(home):
        elsewhere, _ = replace(fleet, sdk=impatient).call(0)
    assert elsewhere != home
    wait_until(fleet.are_healthy)


def test_a_server_that_dies_loses_no_calls(fleet: Fleet, workflow: None) -> None:
    agents = range(len(fleet.homes()))
    lost, left = fleet.servers
    lost.kill()
    assert {fleet.call(agent)[0] for agent in agents} == {left.base_url}


def test_a_server_that_died_and_was_started_again_is_told_and_serves(
    fleet: Fleet, tiny_model: Path
) -> None:
    lost, left = fleet.servers
    lost.kill()  # if the last test has not
    log = lost.log.with_name("again.log")
    with ServerProcess(tiny_model, FLEET_FLAGS, log=log, port=lost.port) as again:
        wait_until(fleet.are_healthy)
        with kvflow_agents.workflow("after", base_urls=[f"{fleet.gateway.base_url}/v1"]):
            homes = fleet.homes()
            assert set(homes) == {again.base_url, left.base_url}
            for agent, home in enumerate(homes):
                server, cached_tokens = fleet.call(agent)
                assert server == home and cached_tokens >= PREFIX_TOKENS
            wait_until(lambda: Client(again.base_url).counted("workflows") == 1)
        wait_until(lambda: Client(again.base_url).counted("workflows") == 0)
