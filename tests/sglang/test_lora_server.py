"""Real servers with more adapters than slots: who is served by what, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kvflow_agents.hints import encode_request
from kvflow_agents.lora_ledger import Adapter
from kvflow_sglang import model, tiny_lora
from kvflow_sglang.server_process import ServerProcess
from tests.sglang.kvflow_client import Client, Reply, Run, wait_until

ADAPTERS = ("a0", "a1", "a2", "a3", "a4", "a5")
AGENTS: tuple[Adapter, ...] = (None, *ADAPTERS)
SLOTS = 3
ROUNDS = 4
FLAGS = ("--engine", "cpu", "--skip-server-warmup", "--sleep-on-idle", "--enable-lora")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters: six, one more, and one of a rank above theirs."""
    folder = tmp_path_factory.mktemp("adapters")
    for number, name in enumerate((*ADAPTERS, "late", "wide")):
        rank = 4 * tiny_lora.RANK if name == "wide" else tiny_lora.RANK
        write = partial(tiny_lora.write, number=number, rank=rank)
        model.make(folder / name, write, config=tiny_lora.CONFIG)
    return folder


def flags(folder: Path, slots: int, served: int, *, overlap: bool) -> list[str]:
    paths = [f"{name}={folder / name}" for name in ADAPTERS[:served]]
    ahead = ("--enable-lora-overlap-loading", "--max-loaded-loras", str(2 * slots))
    chosen = ["--max-loras-per-batch", str(slots), *(ahead if overlap else ())]
    return [*FLAGS, *chosen, "--lora-paths", *paths]


@pytest.fixture(scope="module")
def stock(
    tiny_model: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[Adapter, int], str]:
    """What stock SGLang answers where all adapters fit, by adapter and round."""
    log = tmp_path_factory.mktemp("stock") / "server.log"
    chosen = ["--stock", *flags(adapters, 8, len(ADAPTERS), overlap=False)]
    with ServerProcess(tiny_model, chosen, log=log) as server:
        client = Client(server.base_url)
        calls = product(AGENTS, range(ROUNDS))
        return {(each, call): text_of(ask(client, each, call)) for each, call in calls}


@pytest.fixture(scope="module")
def client(
    tiny_model: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """Of a server that loads adapters ahead."""
    log = tmp_path_factory.mktemp("lora") / "server.log"
    chosen = flags(adapters, SLOTS, len(ADAPTERS) - 1, overlap=True)
    with ServerProcess(tiny_model, chosen, log=log) as server:
        yield Client(server.base_url)


def ask(
    client: Client,
    adapter: Adapter,
    call: int,
    custom_params: object = None,
    cache_salt: str | None = None,
) -> Reply:
    body: dict[str, Any] = {
        **({} if cache_salt is None else {"cache_salt": cache_salt}),
        "model": "tiny" if adapter is None else f"tiny:{adapter}",
        "prompt": f"This is call number {call}.",
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
    }
    if custom_params is not None:
        body["custom_params"] = custom_params
    return client.post("/v1/completions", body)


def text_of(reply: Reply) -> str:
    assert reply.status == 200, reply
    return str(reply.body["choices"][0]["text"])


def cycle(
    client: Client,
    agents: tuple[Adapter, ...],
    run: Run | None,
    *,
    cache_salt: str | None = None,
) -> list[str]:
    """All agents call in turn, each with its adapter; with a run they tell who is next."""
    answers = []
    for call, (at, adapter) in product(range(ROUNDS), enumerate(agents)):
        params = None
        if run is not None:
            steps = {f"agent-{each}": (to - at) % len(agents) for to, each in enumerate(agents)}
            params = run.params(steps, f"agent-{adapter}")
        answers.append(text_of(ask(client, adapter, call, params, cache_salt)))
    return answers


def changes(client: Client, name: str, before: dict[str, int]) -> int:
    return client.counted(name) - before[name]


def test_the_adapters_answer_differently(stock: dict[tuple[Adapter, int], str]) -> None:
    for call in range(ROUNDS):
        assert len({stock[adapter, call] for adapter in AGENTS}) == len(AGENTS)


def test_what_comes_next_is_loaded_before_it_is_asked_for(
    client: Client, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:6]
    before = client.counts()
    run = Run("cycle", app="cycle")
    answers = cycle(client, agents, run)
    assert answers == [stock[each] for each in _in_turn(agents)]
    # In the first round nobody knows who calls with what.
    assert changes(client, "lora_loads", before) <= len(agents)
    assert changes(client, "lora_prefetches_used", before) >= (ROUNDS - 1) * len(agents) * 0.6
    client.forecast(run.done())


def test_adapters_given_in_the_hint_are_foreseen_from_the_first_call(
    client: Client, stock: dict[tuple[Adapter, int], str]
) -> None:
    run = Run("told")
    loras = {f"agent-{each}": str(each) for each in ADAPTERS[:5]}
    params = run.params(dict.fromkeys(loras, 1), "agent-a0")
    before = client.counts()
    answer = ask(client, "a0", 0, {**params, "kvflow_loras": loras})
    assert text_of(answer) == stock["a0", 0]
    # Some of the others have no slot, and nobody but the hint says that they will call with them.
    wait_until(lambda: changes(client, "lora_prefetches", before) >= 1)
    client.forecast(run.done())


def test_with_several_tenants_each_ones_adapters_are_foreseen(
    client: Client, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:6]
    before = client.counts()
    theirs = Run("tenant", app="tenant")
    answers = cycle(client, agents, theirs, cache_salt="mine")
    assert answers == [stock[each] for each in _in_turn(agents)]
    assert changes(client, "lora_prefetches_used", before) >= (ROUNDS - 1) * len(agents) * 0.5
    ask(client, "a0", ROUNDS, encode_request(theirs.done()), cache_salt="mine")
    # Nobody in particular is another tenant, and is foreseen as before.
    before = client.counts()
    run = Run("nobody", app="nobody")
    answers = cycle(client, agents, run)
    assert answers == [stock[each] for each in _in_turn(agents)]
    assert changes(client, "lora_prefetches_used", before) >= (ROUNDS - 1) * len(agents) * 0.5
    client.forecast(run.done())


def test_without_hints_it_is_stock(client: Client, stock: dict[tuple[Adapter, int], str]) -> None:
    agents = AGENTS[:6]
    before = client.counts()
    assert cycle(client, agents, None) == [stock[each] for each in _in_turn(agents)]
    assert changes(client, "lora_prefetches", before) == 0
    # A cycle over more than there is room for never finds what it needs.
    assert changes(client, "lora_loads", before) >= ROUNDS * len(agents) - SLOTS


def test_more_adapters_at_once_than_slots_all_get_theirs(
    client: Client, stock: dict[tuple[Adapter, int], str]
) -> None:
    calls = list(product(AGENTS[:6], range(ROUNDS)))
    run = Run("crowd", app="crowd")
    steps = {f"agent-{each}": 0 for each in AGENTS[:6]}
    params = [run.params(steps, f"agent-{adapter}") for adapter, _ in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        asked = [
            pool.submit(ask, client, *call, said) for call, said in zip(calls, params, strict=True)
        ]
        answers = [text_of(each.result()) for each in asked]
    assert answers == [stock[call] for call in calls]
    client.forecast(run.done())


def test_an_unknown_adapter_is_refused_and_disturbs_nobody(
    client: Client, stock: dict[tuple[Adapter, int], str]
) -> None:
    run = Run("stranger")
    reply = ask(client, "nobody", 0, run.params({"x": 0, "y": 1}, "x"))
    assert reply.status == 400
    assert "nobody" in str(reply.body)
    assert text_of(ask(client, "a0", 1)) == stock["a0", 1]


def test_a_rank_above_the_limit_is_refused_by_sglang(
    client: Client, adapters: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    body = {"lora_name": "wide", "lora_path": str(adapters / "wide")}
    reply = client.post("/load_lora_adapter", body)
    assert reply.status == 400
    assert "rank" in str(reply.body)
    assert ask(client, "wide", 0).status == 400
    assert text_of(ask(client, "a1", 1)) == stock["a1", 1]


def test_one_that_is_removed_while_it_is_expected_is_not_loaded_ahead(
    client: Client, adapters: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    body = {"lora_name": "late", "lora_path": str(adapters / "late")}
    assert client.post("/load_lora_adapter", body).status == 200
    run = Run("late", app="late")
    first = text_of(ask(client, "late", 0, run.params({"last": 0, "a0": 1}, "last")))
    assert first not in stock.values()
    for each in ("a0", "a1", "a2"):
        ask(client, each, 0, run.params({each: 0, "last": 3}, each))
    assert client.post("/unload_lora_adapter", {"lora_name": "late"}).status == 200
    # Its turn comes: it would be loaded now, were it there.
    before = client.counts()
    answer = ask(client, "a0", 2, run.params({"a0": 0, "last": 1}, "a0"))
    assert text_of(answer) == stock["a0", 2]
    assert changes(client, "lora_prefetches", before) == 0
    # SGLang remembers where it was, and loads it again for whoever asks for it by name.
    assert text_of(ask(client, "late", 0)) == first
    assert client.post("/unload_lora_adapter", {"lora_name": "late"}).status == 200
    # Under the same name it is another adapter, and the agent's next call says so.
    body["lora_path"] = str(adapters / "a5")
    assert client.post("/load_lora_adapter", body).status == 200
    assert text_of(ask(client, "late", 3, run.params({"last": 0}, "last"))) == stock["a5", 3]
    client.forecast(run.done())


def test_one_slot_serves_them_all_one_after_another(
    tiny_model: Path, adapters: Path, tmp_path: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:3]
    chosen = flags(adapters, 1, 2, overlap=True)
    with ServerProcess(tiny_model, chosen, log=tmp_path / "server.log") as server:
        client = Client(server.base_url)
        answers = cycle(client, agents, Run("one slot", app="one slot"))
        assert answers == [stock[each] for each in _in_turn(agents)]
        calls = list(product(agents, range(ROUNDS)))
        run = Run("all at once", app="one slot")
        steps = {f"agent-{each}": 0 for each in agents}
        params = [run.params(steps, f"agent-{adapter}") for adapter, _ in calls]
        with ThreadPoolExecutor(len(calls)) as pool:
            texts = list(
                pool.map(lambda at: text_of(ask(client, *calls[at], params[at])), range(len(calls)))
            )
        assert texts == [stock[call] for call in calls]


def test_switched_off_adapters_are_left_to_sglang_and_kv_is_not(
    tiny_model: Path, adapters: Path, tmp_path: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:6]
    chosen = ["--kvflow-config", '{"lora": false}', *flags(adapters, SLOTS, 6, overlap=False)]
    with ServerProcess(tiny_model, chosen, log=tmp_path / "server.log") as server:
        client = Client(server.base_url)
        answers = cycle(client, agents, Run("off", app="off"))
        assert answers == [stock[each] for each in _in_turn(agents)]
        counts = client.counts()
        assert not [name for name in counts if name.startswith("lora_")]
        assert counts["agents"] > 0


def test_switched_off_kv_is_left_to_lru_and_adapters_are_not(
    tiny_model: Path, adapters: Path, tmp_path: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:6]
    chosen = ["--kvflow-config", '{"kv": false}', *flags(adapters, SLOTS, 5, overlap=True)]
    with ServerProcess(tiny_model, chosen, log=tmp_path / "server.log") as server:
        client = Client(server.base_url)
        answers = cycle(client, agents, Run("kv off", app="kv off"))
        assert answers == [stock[each] for each in _in_turn(agents)]
        counts = client.counts()
        assert counts["agents"] == 0
        assert counts["lora_prefetches_used"] >= (ROUNDS - 1) * len(agents) * 0.5


def test_two_ranks_with_a_host_tier_decide_alike(
    tiny_model: Path, adapters: Path, tmp_path: Path, stock: dict[tuple[Adapter, int], str]
) -> None:
    agents = AGENTS[:6]
    chosen = [
        *flags(adapters, SLOTS, len(agents) - 1, overlap=True),
        *("--host-tier", "--hicache-ratio", "4", "--max-total-tokens", "400", "--tp", "2"),
    ]
    # SGLang compares what its ranks call, pass and return, and ends the server if they differ.
    env = {"SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1"}
    with ServerProcess(tiny_model, chosen, log=tmp_path / "server.log", env=env) as server:
        client = Client(server.base_url)
        answers = cycle(client, agents, Run("ranks", app="ranks"))
        assert answers == [stock[each] for each in _in_turn(agents)]
        assert client.counted("lora_prefetches_used") > 0


def _in_turn(agents: tuple[Adapter, ...]) -> list[tuple[Adapter, int]]:
    return [(adapter, call) for call, adapter in product(range(ROUNDS), agents)]
