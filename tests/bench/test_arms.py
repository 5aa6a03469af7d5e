from __future__ import annotations

import json

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.arms import ARMS, SERVERS, Hints, chosen, in_turn, servers_of, told

STEPS = {"a": 0, "b": 1, "c": 3, "d": None}


def test_what_an_arm_says() -> None:
    assert told(Hints.NONE, STEPS) is None
    assert told(Hints.EXACT, STEPS) == STEPS
    assert told(Hints.REVERSED, STEPS) == {"a": 3, "b": 2, "c": 0, "d": None}


def test_arms_that_need_the_same_server_share_it() -> None:
    arms = chosen(["hicache", "kvflow", "kvflow-wrong", "kvflow", "kvflow-unhinted"])
    assert [arm.name for arm in arms] == ["hicache", "kvflow", "kvflow-wrong", "kvflow-unhinted"]
    assert [kind.name for kind in servers_of(arms)] == ["hicache", "kvflow"]
    assert {arm.server for arm in ARMS.values()} == set(SERVERS)
    with pytest.raises(ConfigurationError, match="no arm 'kv'"):
        chosen(["kv"])


def test_the_order_of_arms_alternates() -> None:
    arms = chosen(["lru", "hicache", "kvflow"])
    orders = [[arm.name for arm in in_turn(arms, repeat)] for repeat in range(3)]
    forwards = ["lru", "hicache", "kvflow"]
    assert orders == [forwards, forwards[::-1], forwards]


def test_settings_go_to_servers_with_the_plugin_and_the_arm_wins() -> None:
    shared = {"prefetch_steps": 2, "prefetch_tokens": 64}
    assert SERVERS["lru"].options(shared) == ["--stock"]
    assert SERVERS["hicache"].options(shared) == ["--stock", "--host-tier"]
    assert SERVERS["kvflow"].options({}) == ["--host-tier"]
    *options, settings = SERVERS["kvflow-noprefetch"].options(shared)
    assert options == ["--host-tier", "--kvflow-config"]
    assert json.loads(settings) == {"prefetch_steps": None, "prefetch_tokens": 64}
