"""A short, repeatable slice of what `benchmarks/fuzz.py` does by the million."""

from __future__ import annotations

import gc

import pytest

import fuzz
from fuzz import Findings


def assert_clean(found: Findings, cases: int) -> None:
    assert found.cases >= cases
    assert not found.crashes
    assert not found.broken_invariants


def test_a_collection_of_garbage_is_no_part_of_the_call_that_it_falls_into() -> None:
    found = Findings()
    found.timed(gc.collect)
    assert 0 < found.longest_call_cpu_ms < fuzz.CLOCK.longest_collection_ms


def test_hints_on_the_wire() -> None:
    found = fuzz.fuzz_wire(1000, seed=2)
    assert_clean(found, 1000)
    wanted = {"passed_hint", "passed_without", "accepted", "refused_type", "refused_range"}
    assert wanted <= set(found.outcomes)
    heard = [found.outcomes[f"on_requests_{outcome}"] for outcome in ("stale", "ended")]
    assert found.outcomes["on_requests_accepted"] > sum(heard)


def test_requests_forecasts_evictions_and_loads_against_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz, "TREE_CASES", 200)
    found = fuzz.fuzz_tree(400, seed=3)
    assert_clean(found, 400)
    assert {"hits", "misses", "evictions", "matches", "passes"} <= set(found.outcomes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_endpoints_by_their_document() -> None:
    found = fuzz.fuzz_endpoints(40, seed=4)
    assert_clean(found, 20)
    statuses = {name.rpartition(" ")[2] for name in found.outcomes}
    assert {"200", "400", "404"} <= statuses
