"""Hints that carry changes only, on the real cache: what they leave unsaid goes on counting."""

from __future__ import annotations

from collections.abc import Mapping

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.standalone import StandaloneCache

PROMPT_TOKENS = 100
AGENTS = ("a", "b", "c", "d")


class Town:
    """Four agents whose prompts are all cached, on a device that has room for nothing more."""

    def __init__(self) -> None:
        pool_tokens = len(AGENTS) * PROMPT_TOKENS
        self.cache = StandaloneCache("kvflow", pool_tokens=pool_tokens)
        self.cache.cache.tree_core.most_expected_device_tokens = None
        self.seq = 0
        for agent in AGENTS:
            self.cache.run(self.prompt(agent), hint=self.hint({agent: 0}, agent))

    def prompt(self, agent: str) -> list[int]:
        return [1000 + ord(agent)] * PROMPT_TOKENS

    def hint(self, steps: Mapping[str, int | None], agent: str | None = None) -> Hint:
        self.seq += 1
        return Hint("town", Forecast(self.seq, steps, changes=True), agent=agent)

    def tell(self, steps: Mapping[str, int | None]) -> str:
        return str(self.cache.cache.hear(self.hint(steps)))

    def order(self) -> str:
        """The agents in the order in which they are evicted."""
        gone = ""
        while len(gone) < len(AGENTS):
            assert self.cache.evict(PROMPT_TOKENS) >= PROMPT_TOKENS
            cached = [a for a in AGENTS if self.cache.match(self.prompt(a)).device_prefix_len]
            gone += "".join(a for a in AGENTS if a not in cached and a not in gone)
        return gone


def test_eviction_follows_changes_and_what_was_told_before() -> None:
    town = Town()
    town.tell({"a": 1, "b": 2, "c": 3, "d": 4})
    town.tell({"c": 9})
    town.tell({"a": 5})
    assert town.order() == "cadb"


def test_an_agent_that_has_left_goes_first() -> None:
    town = Town()
    town.tell({"a": 1, "b": 2, "c": 3, "d": 4})
    town.tell({"a": None})
    assert town.order() == "adcb"


def test_a_call_overtakes_the_tick_that_was_told_before_it() -> None:
    town = Town()
    late = town.hint({"a": 9, "b": 8, "c": 3, "d": 4})
    call = town.hint({"a": 0}, "a")
    assert town.cache.cache.hear(call) == "accepted"
    assert town.cache.cache.hear(late) == "accepted"
    assert town.cache.cache.hear(late) == "stale"
    town.cache.cache.tenants.anonymous.foresight.check()
    assert town.order() == "bdca"


def test_the_simulations_end_leaves_nothing_expected() -> None:
    town = Town()
    town.tell({"a": 1})
    assert town.cache.cache.hear(Hint("town", Forecast(99, done=True))) == "accepted"
    assert town.cache.cache.status()["expected_device_tokens"] == 0
    assert town.tell({"a": 1}) == "ended"
