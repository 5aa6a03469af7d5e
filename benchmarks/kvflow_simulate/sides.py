"""The sides of a comparison: each a policy, and what it has to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kvflow_agents.errors import ConfigurationError
from kvflow_sglang.settings import Settings
from kvflow_simulate.clairvoyant import Clairvoyant, Future
from kvflow_simulate.foretold import Foretold, Papers
from kvflow_simulate.policies import Policy, Recency
from kvflow_simulate.tree import PrefixTree


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison: a policy, and whether it has a host tier."""

    name: str
    make: Callable[[PrefixTree, Future | None], Policy]
    has_host_tier: bool
    is_hinted: bool = False
    knows_the_future: bool = False
    fits_everything: bool = False
    overlaps_loras: bool = True
    """Whether adapters are loaded beside the computation."""


def clairvoyant(tree: PrefixTree, future: Future | None, *, piece_tokens: int = 1) -> Policy:
    """The optimum, for runs of which the future is known."""
    assert future is not None, "this policy has to know the future"
    return Clairvoyant(tree, future, piece_tokens=piece_tokens)


SIDES: Mapping[str, Side] = {
    side.name: side
    for side in (
        Side("lru", lambda tree, _: Recency(tree), has_host_tier=False, overlaps_loras=False),
        Side("lru-overlap", lambda tree, _: Recency(tree), has_host_tier=False),
        Side("hicache", lambda tree, _: Recency(tree), has_host_tier=True, overlaps_loras=False),
        Side("papers", lambda tree, _: Papers(tree), has_host_tier=True, is_hinted=True),
        Side("ours", lambda tree, _: Foretold(tree), has_host_tier=True, is_hinted=True),
        Side("ours-device", lambda tree, _: Foretold(tree), has_host_tier=False, is_hinted=True),
        Side(
            "ours-by-steps",
            lambda tree, _: Foretold(tree, Settings(order="steps")),
            has_host_tier=True,
            is_hinted=True,
        ),
        Side(
            "ours-noprefetch",
            lambda tree, _: Foretold(tree, Settings(prefetch_steps=None, lora_prefetch_steps=None)),
            has_host_tier=True,
            is_hinted=True,
        ),
        Side("optimum", clairvoyant, has_host_tier=True, knows_the_future=True),
        Side("optimum-device", clairvoyant, has_host_tier=False, knows_the_future=True),
    )
}
SAME_TIERS: Mapping[str, tuple[str, str]] = {
    "lru": ("lru", "hicache"),
    "optimum": ("optimum-device", "optimum"),
}
"""Recency and MIN: on the device alone, and with a host tier besides."""
CEILING = Side("ceiling", lambda tree, _: Recency(tree), has_host_tier=False, fits_everything=True)


def chosen(names: list[str]) -> list[Side]:
    """The sides of these names. ConfigurationError if there is no such policy."""
    for name in names:
        if name not in SIDES:
            raise ConfigurationError(f"there is no policy {name!r}; there are {', '.join(SIDES)}")
    return [SIDES[name] for name in dict.fromkeys(names)]
