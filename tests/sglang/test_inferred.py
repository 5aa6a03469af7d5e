"""Inference in the cache of a server, without a server: what it gains, and what it leaves alone."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.inferred import _origin_of, note_origin
from kvflow_sglang.settings import VARIABLE
from kvflow_sglang.standalone import Core, Request, StandaloneCache

SYSTEM_TOKENS = 200
POOL_TOKENS = 1_500
TEAMS = 3
AGENTS = 4


def cached_of_teams(cache: StandaloneCache, *, quoted: bool = True, named: bool = False) -> int:
    """Three teams of four take turns at random; their system prompts need 2,400 tokens."""
    chance = random.Random(1)

    def text(tokens: int) -> list[int]:
        return [chance.randrange(1_000_000) for _ in range(tokens)]

    systems = {(team, agent): text(SYSTEM_TOKENS) for team in range(TEAMS) for agent in range(4)}
    said = [text(12) for _ in range(TEAMS)]
    turns = [0] * TEAMS
    cached_tokens = 0
    for _ in range(400):
        team = chance.randrange(TEAMS)
        before = said[team] if quoted else text(12)
        prompt = [*systems[team, turns[team] % AGENTS], *text(10), *before, *text(20)]
        said[team] = text(12)
        session_id = f"team {team}" if named else None
        cached_tokens += cache.run(prompt, said[team], session_id=session_id)
        turns[team] += 1
    if cache.cache.__class__.__name__ == "KVFlowRadixCache":
        cache.cache.tenants.anonymous.foresight.check()
    return cached_tokens


def cache_of(core: Core) -> StandaloneCache:
    return StandaloneCache(core, pool_tokens=POOL_TOKENS)


def test_teams_that_quote_each_other_gain_without_a_hint() -> None:
    stock = cached_of_teams(cache_of("python"))
    assert cached_of_teams(cache_of("kvflow")) >= 1.3 * stock


def test_sessions_do_where_nothing_is_quoted() -> None:
    stock = cached_of_teams(cache_of("python"), quoted=False)
    assert cached_of_teams(cache_of("kvflow"), quoted=False, named=True) >= 1.3 * stock


def test_where_it_abstains_the_order_is_that_of_a_stock_server() -> None:
    cache = cache_of("kvflow")
    assert cached_of_teams(cache, quoted=False) == cached_of_teams(cache_of("python"), quoted=False)
    status = cache.cache.status()
    assert status["inferred_calls"] == 0
    assert status["inferred_abstained"] == 400
    assert status["workflows"] == status["expected_device_tokens"] == 0


def test_inference_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"infer": False}))
    cache = cache_of("kvflow")
    assert cached_of_teams(cache) == cached_of_teams(cache_of("python"))
    assert not any(name.startswith("inferred") for name in cache.cache.status())


def test_a_request_with_a_hint_is_not_inferred() -> None:
    cache = cache_of("kvflow")
    for seq in range(10):
        hint = Hint("mine", Forecast(seq, {"a": 1}), agent="a")
        cache.run(range(100 + seq), [1, 2, 3], hint=hint)
    status = cache.cache.status()
    assert status["inferred_calls"] == status["inferred_abstained"] == 0
    assert status["workflows"] == 1


def test_arrivals_are_looked_at_when_the_device_is_at_work() -> None:
    cache = cache_of("kvflow").cache
    sampling_params = SimpleNamespace(custom_params=None)
    requests = [Request(array("q", range(100)), sampling_params, rid=rid) for rid in "123"]
    for request in requests:
        cache.arrived(request)
    assert cache.status()["inferred_abstained"] == 0
    cache.catch_up(requests[1:2])
    assert cache.status()["inferred_abstained"] == 2
    cache.catch_up(requests)
    assert cache.status()["inferred_abstained"] == 3


def test_a_batch_is_not_looked_through_when_nobody_has_arrived() -> None:
    def rids() -> Iterator[str]:
        pytest.fail("somebody has looked")
        yield ""

    cache = cache_of("kvflow")
    cache.cache.inferred.catch_up(rids())


def test_flushing_forgets_what_was_inferred() -> None:
    cache = cache_of("kvflow")
    cached_of_teams(cache)
    assert cache.cache.status()["inferred_agents"] > 0
    cache.cache.reset()
    assert cache.cache.status()["inferred_agents"] == 0


def cached_of_chat(cache: StandaloneCache, *, says: bool) -> int:
    """A conversation of three turns; in between others fill the pool once over."""
    chance = random.Random(2)
    history: list[int] = []
    cached_tokens = 0
    for turn in range(3):
        history += [chance.randrange(1_000_000) for _ in range(300)]
        params = {"kvflow_session": "chat", "kvflow_conversation": "chat"} if says else None
        cached_tokens += cache.run(history, [turn], custom_params=params)
        history.append(turn)
        for _ in range(10):
            cache.run([chance.randrange(1_000_000) for _ in range(150)], [1])
    return cached_tokens


def test_a_conversation_that_goes_on_is_kept_from_its_first_turn() -> None:
    silent = cache_of("kvflow")
    assert cached_of_chat(silent, says=False) == 0
    told = cache_of("kvflow")
    assert cached_of_chat(told, says=True) >= 300 + 600
    told.cache.tenants.anonymous.foresight.check()


def test_what_a_session_has_used_goes_first_once_it_has_ended() -> None:
    cache = cache_of("kvflow")
    params = {"kvflow_session": "chat", "kvflow_conversation": "chat"}
    history, other = list(range(400)), list(range(10_000, 10_400))
    cache.run(history, [1], custom_params=params)
    assert cache.cache.status()["expected_device_tokens"] > 0
    cache.run(other, [1])
    cache.run([*history, 1, 2], [3], custom_params={**params, "kvflow_last": True})
    assert cache.cache.status()["expected_device_tokens"] == 0
    cache.evict(300)  # the session's, though the other was used before
    assert cache.match(other).device_prefix_len == 400
    assert cache.match(history).device_prefix_len < 400


def noted(headers: dict[str, str], body: object, custom_params: object = None) -> Any:
    request = SimpleNamespace(sampling_params={"custom_params": custom_params})
    note_origin(request, headers, body)
    return request.sampling_params["custom_params"]


def test_what_keeps_requests_apart_is_remembered_in_a_few_bytes() -> None:
    def space(**fields: str) -> str:
        params = SimpleNamespace(custom_params=None)
        asked = dict.fromkeys(("extra_key", "cache_salt", "lora_id", "session_id")) | fields
        return _origin_of(SimpleNamespace(sampling_params=params, **asked)).space

    salt = "\udcff" + 1_000_000 * "x"
    spaces = [space(), space(cache_salt=salt), space(cache_salt=salt + "x"), space(extra_key=salt)]
    assert len(set(spaces)) == len(spaces)
    assert max(map(len, spaces)) <= 32
    assert space(cache_salt=salt) == spaces[1]


def test_what_a_client_says_of_itself_travels_with_the_request() -> None:
    assert noted({"x-session-id": "s"}, {"user": "u"}, {"mine": 1}) == {
        "mine": 1,
        "kvflow_session": "s",
        "kvflow_scope": "u",
    }
    assert noted({"x-session-id": "s" * 1000}, None)["kvflow_session"] == "s" * 128
    sub_agent = {"x-dynamo-session-id": "run:writer", "x-dynamo-parent-session-id": "run"}
    assert noted(sub_agent, {}) == {"kvflow_session": "run"}


@pytest.mark.parametrize("body", [None, [], "user", {"user": 5}, {"user": ""}, {"user": None}])
def test_who_says_nothing_gets_nothing(body: object) -> None:
    assert noted({}, body) is None
    assert noted({"x-session-id": ""}, body) is None


@pytest.mark.parametrize("params", [None, [{}], 5])
def test_batches_and_other_parameters_are_left_alone(params: object) -> None:
    request = SimpleNamespace(sampling_params=params)
    note_origin(request, {"x-session-id": "s"}, {})
    assert request.sampling_params == params
