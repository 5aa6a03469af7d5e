"""Our own server passes the conformance suite, and what other projects' clients gain from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from kvflow_agents.agent_hints import FINAL_HEADER
from kvflow_agents.conformance_suite import Case, Runner, load_cases
from kvflow_agents.inquiry import Inquiries
from kvflow_agents.servers import Server
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import FLAGS
from tests.sglang.kvflow_client import Client

KEY = "sesame"
CASES = load_cases()


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("conformance") / "server.log"
    with ServerProcess(
        tiny_model, [*FLAGS, "--api-key", KEY, "--enable-priority-scheduling"], log=log
    ) as process:
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
    assert stranger.dialect_of(Server(server.root_url, "another key")) == "none"


def cached_of_conversation(
    server: Server, agent_hints: dict[str, object] | None, session: str = "chat"
) -> int:
    """Three turns as a client of Dynamo sends them; in between others fill the pool once over."""
    cached, history = 0, ""
    with openai.OpenAI(base_url=f"{server.root_url}/v1", api_key=KEY, max_retries=0) as client:

        def complete(prompt: str, **more: Any) -> Any:
            return client.completions.create(
                model="tiny", prompt=prompt, max_tokens=4, temperature=0, **more
            )

        for turn in range(3):
            history += "".join(f"{turn}:{index * 7919 % 1009} " for index in range(100))
            more: dict[str, Any] = {}
            if agent_hints is not None:
                more["extra_headers"] = {"X-Dynamo-Session-ID": session}
                more["extra_body"] = {"nvext": {"agent_hints": agent_hints}}
            answer = complete(history, **more)
            cached += answer.usage.prompt_tokens_details.cached_tokens or 0
            history += answer.choices[0].text
            for other in range(8):
                complete("".join(f"{chr(97 + other)}{turn}{index} " for index in range(100)))
        if agent_hints is not None:
            complete("bye", extra_headers={**more["extra_headers"], FINAL_HEADER: "true"})
    return cached


def test_agent_hints_set_the_priority_of_a_request(server: Server) -> None:
    client = Client(server.root_url, KEY)
    before = client.status()["heard_forms"].get("priority", 0)
    with openai.OpenAI(base_url=f"{server.root_url}/v1", api_key=KEY, max_retries=0) as sdk:
        said = [
            sdk.completions.create(
                model="tiny",
                prompt="The capital of France is",
                max_tokens=4,
                temperature=0,
                extra_body={"nvext": {"agent_hints": {"priority": priority}}},
            )
            for priority in (-5, 0, 5)
        ]
    assert len({answer.choices[0].text for answer in said}) == 1
    status = client.status()
    assert status["heard_forms"]["priority"] == before + 3
    assert "priority" not in status["ignored_fields"]


def test_a_client_of_dynamo_finds_its_conversation_without_a_change(server: Server) -> None:
    client = Client(server.root_url, KEY)
    client.flush()
    assert cached_of_conversation(server, None) < 100
    client.flush()
    assert cached_of_conversation(server, {"osl": 4}, "alone") < 100  # a session alone
    client.flush()
    assert cached_of_conversation(server, {"speculative_prefill": True, "osl": 4}) > 1000
    assert client.counted("expected_device_tokens") == 0
    status = client.status()
    assert status["heard_forms"]["session_final"] > 0
    assert status["heard_forms"]["speculative_prefill"] > 2
    assert status["ignored_fields"]["osl"] > 2
