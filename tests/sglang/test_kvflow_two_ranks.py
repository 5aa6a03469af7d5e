"""A real server of two tensor-parallel ranks, which have to decide alike without asking.

A header tells its tenants apart, as a proxy would send it, and names are hashed at its door.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import AGENTS, FLAGS, PREFIX_TOKENS, call_in_turn
from tests.sglang.kvflow_client import Client, Run


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("ranks") / "server.log"
    settings = {"tenant_by": "header", "tenant_header": "X-Tenant", "hash_names": True}
    flags = [*FLAGS, "--kvflow-config", json.dumps(settings)]
    flags += ["--host-tier", "--hicache-ratio", "4", "--tp", "2"]
    switches = tmp_path_factory.mktemp("switches") / "switches.json"
    # Each rank by itself would say at other times that a copy is done.
    switches.write_text(json.dumps({"defer_passes": [1, 6], "poison": True}))
    env = {
        # SGLang compares what its ranks call, pass and return, and ends the server if they differ.
        "SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1",
        "SGLANG_PLUGINS": "kvflow_instruments",
        "KVFLOW_BENCH_SWITCHES": str(switches),
    }
    with ServerProcess(tiny_model, flags, log=log, env=env) as server:
        yield Client(server.base_url)


def test_ranks_evict_and_prefetch_alike(client: Client) -> None:
    run = Run("cycle")
    told = call_in_turn(client, run)
    counts = client.counts()
    assert counts["prefetched_tokens"] > 0 and counts["prefetch_used_tokens"] > 0
    client.forecast(run.done())
    untold = call_in_turn(client, None)
    warm = slice(AGENTS, None)
    assert all(answer.cached_tokens >= PREFIX_TOKENS for answer in told[warm])
    assert sum(a.host_tokens for a in told[warm]) < sum(a.host_tokens for a in untold[warm])
    # Ranks with different KV would not agree on an answer.
    assert [answer.text for answer in told] == [answer.text for answer in untold]


def test_a_header_tells_tenants_apart_and_no_name_is_kept(client: Client) -> None:
    one, other = (replace(client, headers={"X-Tenant": name}) for name in ("one", "other"))
    for tenant, agent in ((one, "writer"), (other, "critic")):
        tenant.complete("hello", custom_params=Run("secret run").params({agent: 1}, agent))
    path = "/kvflow/workflows/secret%20run"
    assert client.get(path).status == 404
    mine, theirs = one.get(path), other.get(path)
    assert (mine.status, theirs.status) == (200, 200)
    for reply in (mine, theirs):
        assert len(reply.body["agents"]) == 1
        assert not any(name in str(reply.body) for name in ("writer", "critic", "secret"))
    # Names are hashed alike wherever they come in; a forecast ends its own tenant's run alone.
    assert one.forecast(Run("secret run", seq=5).done()).body == {"outcome": "accepted"}
    assert one.get(path).body["done"] is True
    assert other.get(path).body["done"] is False
    shouted = replace(client, headers={"X-TENANT": "one"})
    assert shouted.get(path).body == one.get(path).body
    assert client.counted("tenants") == 2
