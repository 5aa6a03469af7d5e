"""Who calls with which adapter, as the cache of a server hears it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.tenants import Tenant
from kvflow_sglang.lora import AdapterSlots
from kvflow_sglang.standalone import StandaloneCache
from tests.sglang.test_inferred import AGENTS, cached_of_teams
from tests.sglang.test_lora_loads import Manager


class Server:
    """A cache whose requests ask for adapters, and the slots for those."""

    def __init__(self) -> None:
        self.standalone = StandaloneCache("kvflow", pool_tokens=1500)
        self.cache: Any = self.standalone.cache
        self.manager = Manager("style1", "taste1", "tone1")
        scheduler = SimpleNamespace(
            tp_worker=SimpleNamespace(model_runner=SimpleNamespace(lora_manager=self.manager)),
            tree_cache=self.cache,
            enable_lora_overlap_loading=False,
        )
        self.cache.manage_adapters(AdapterSlots(scheduler, self.cache.settings))
        self.seq = 0

    def hint(self, tenant: Tenant = None, agent: str | None = None, **steps: int | None) -> Hint:
        self.seq += 1
        return Hint("run", Forecast(self.seq, steps), agent, "app", tenant=tenant)

    def call(self, agent: str, lora_id: str, tenant: Tenant = None, **steps: int | None) -> None:
        prompt = [sum(map(ord, agent)), *range(50), self.seq]
        hint = self.hint(tenant, agent, **steps)
        self.standalone.run(prompt, [1], hint=hint, tenant=tenant, lora_id=lora_id)

    def steps(self, tenant: Tenant = None) -> dict[Any, int | None]:
        ledger = self.cache.adapter_ledger(tenant)
        return {each: ledger.steps_of(each) for each in ledger.by_nearness()}


@pytest.fixture
def server() -> Server:
    return Server()


def test_adapters_are_known_by_name(server: Server) -> None:
    server.call("writer", "style1", writer=0, critic=1)
    server.call("critic", "taste1", critic=0, writer=1)
    assert server.steps() == {"taste": 0, "style": 1}


def test_a_hint_may_tell_them_beforehand(server: Server) -> None:
    forecast = Forecast(1, {"writer": 1, "critic": 2}, loras={"critic": "taste"})
    server.cache.hear(Hint("run", forecast))
    assert server.steps() == {"taste": 2}


def test_each_tenant_has_its_own(server: Server) -> None:
    server.call("writer", "style1", writer=0)
    server.call("writer", "taste1", "one", writer=3)
    assert server.steps() == {"style": 0}
    assert server.steps("one") == {"taste": 3}
    assert server.cache.status()["lora_agents"] == 2


def test_a_tenant_whose_forecasts_are_not_heeded_expects_no_adapter(server: Server) -> None:
    server.call("writer", "style1", writer=0)
    server.call("writer", "taste1", "one", writer=3)
    server.cache.tenants.of("one").foresight.heed(False)
    assert server.steps("one") == {}
    assert server.steps() == {"style": 0}


def test_flushing_forgets_workflows_but_not_what_agents_call_with(server: Server) -> None:
    for tenant in (None, "one"):
        server.call("writer", "style1", tenant, writer=0)
    server.cache.reset()
    for tenant in (None, "one"):
        assert server.steps(tenant) == {}
        server.cache.hear(server.hint(tenant, writer=2))
        assert server.steps(tenant) == {"style": 2}


def test_callers_that_are_inferred_have_adapters_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = server.standalone.arrive, 0

    def arrive(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return plain(*args, **{**kwargs, "lora_id": ("style1", "taste1")[calls % 2]})

    monkeypatch.setattr(server.standalone, "arrive", arrive)
    cached_of_teams(server.standalone)
    assert server.cache.status()["inferred_calls"] > 0
    assert server.cache.status()["lora_agents"] >= AGENTS
    assert {*server.steps()} <= {"style", "taste"}
    assert server.steps()
