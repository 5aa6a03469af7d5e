"""Data-parallel schedulers: the hint of a request reaches those that do not get the request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_sglang.messages import noticed_hint
from kvflow_sglang.replicas import LATER_S, Replicas
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.agents_in_turn import FLAGS
from tests.sglang.kvflow_client import Client, Run, wait_until


@pytest.fixture(scope="module")
def client(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("replicas") / "server.log"
    # As behind a proxy that has checked the keys, which tell tenants apart.
    flags = [*FLAGS, "--dp-size", "2", "--kvflow-config", '{"tenant_by": "key"}']
    with ServerProcess(tiny_model, flags, log=log) as server:
        yield Client(server.base_url)


async def told_of(request: Any) -> list[Any]:
    told: list[Any] = []
    replicas = Replicas(lambda manager, message: told.append(message))
    replicas.pass_on(None, request)
    assert not told  # the request itself goes first
    await asyncio.sleep(2 * LATER_S)
    return told


async def test_who_calls_is_passed_on_with_what_is_expected() -> None:
    hinted = {"custom_params": Run("w").params({"a": 1, "b": None}, "a")}
    (notice,) = await told_of(SimpleNamespace(sampling_params=hinted))
    hint = noticed_hint(notice)
    assert (hint.workflow, hint.agent, dict(hint.forecast.steps)) == ("w", "a", {"a": 1, "b": None})
    batch = [hinted, {"custom_params": Run("x").params({"a": 1})}, {}]
    assert len(await told_of(SimpleNamespace(sampling_params=batch))) == 2


async def test_nothing_is_passed_on_of_requests_without_a_hint() -> None:
    unhinted: list[Any] = [None, {}, {"custom_params": None}, [{}, None]]
    for params in [*unhinted, {"custom_params": {"kvflow": 5}}]:
        assert not await told_of(SimpleNamespace(sampling_params=params))
    assert not await told_of(SimpleNamespace())


def test_every_scheduler_knows_what_any_request_said(client: Client) -> None:
    run = Run("spread")
    for _ in range(3):  # they take turns
        client.complete("hello", custom_params=run.params({"a": 1, "b": 2}, "a"))
    wait_until(lambda: [each["workflows"] for each in client.status()["ranks"]] == [1, 1])
    ranks = client.status()["ranks"]
    outcomes = ("hints_accepted", "hints_stale")
    # Counted once, where the request went.
    assert sum(rank.get(outcome, 0) for rank in ranks for outcome in outcomes) == 3
    assert client.forecast(run.done()).body == {"outcome": "accepted"}
    assert [each["workflows"] for each in client.status()["ranks"]] == [0, 0]


def test_keys_tell_tenants_apart_on_every_scheduler(client: Client) -> None:
    one, other = (Client(client.base_url, key) for key in ("key of one", "key of another"))
    for tenant in (one, other):
        tenant.complete("hello", custom_params=Run("same name").params({"a": 1}, "a"))
    wait_until(lambda: [each["tenants"] for each in client.status()["ranks"]] == [2, 2])
    path = "/kvflow/workflows/same%20name"
    assert client.get(path).status == 404
    assert one.forecast(Run("same name", seq=5).done()).body == {"outcome": "accepted"}
    wait_until(lambda: [each["workflows"] for each in client.status()["ranks"]] == [1, 1])
    assert other.get(path).body["done"] is False
