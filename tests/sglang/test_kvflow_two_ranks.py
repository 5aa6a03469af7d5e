"""A real server of two tensor-parallel ranks, which have to decide alike without asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import AGENTS, FLAGS, PREFIX_TOKENS, call_in_turn
from tests.sglang.kvflow_client import Client, Run


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("ranks") / "server.log"
    flags = [*FLAGS, "--host-tier", "--hicache-ratio", "4", "--tp", "2"]
    # SGLang compares what its ranks call, pass and return, and ends the server if they differ.
    env = {"SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1"}
    with ServerProcess(tiny_model, flags, log=log, env=env) as server:
        yield Client(server.base_url)


def test_ranks_evict_and_prefetch_alike(client: Client) -> None:
    run = Run("cycle")
    told = call_in_turn(client, run)
    counts = client.counts()
    assert counts["prefetched_tokens"] > 0
    client.forecast(run.done())
    untold = call_in_turn(client, None)
    warm = slice(AGENTS, None)
    assert all(answer.cached_tokens >= PREFIX_TOKENS for answer in told[warm])
    assert sum(a.host_tokens for a in told[warm]) < sum(a.host_tokens for a in untold[warm])
    # Ranks with different KV would not agree on an answer.
    assert [answer.text for answer in told] == [answer.text for answer in untold]
