"""The AutoGen demo against one real server, with the random model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demos.conftest import RunDemo, run_of


@pytest.fixture(scope="module")
def document(run_demo: RunDemo) -> dict[str, Any]:
    return run_demo("chat_team")


def test_both_teams_run_under_both_policies(document: dict[str, Any]) -> None:
    ran = {(run["workload"], run["policy"]): run["calls"] for run in document["runs"]}
    assert ran == {("selector", policy): 64 for policy in ("stock", "kvflow")} | {
        ("graph flow", policy): 44 for policy in ("stock", "kvflow")
    }


def test_a_flow_keeps_the_prompts_that_recency_loses(document: dict[str, Any]) -> None:
    stock, kvflow = (run_of(document, "graph flow", policy) for policy in ("stock", "kvflow"))
    assert stock["cached_tokens"] <= 0.5 * stock["optimum_cached_tokens"]
    assert kvflow["cached_tokens"] >= 0.65 * kvflow["optimum_cached_tokens"]


def test_a_selector_loses_next_to_nothing(document: dict[str, Any]) -> None:
    # Whom its model will choose is not known: everybody is expected alike, as recency has it. How
    # two runs overlap decides over one prompt of about twenty, either way.
    stock, kvflow = (run_of(document, "selector", policy) for policy in ("stock", "kvflow"))
    assert kvflow["cached_tokens"] >= 0.9 * stock["cached_tokens"]


def test_answers_do_not_depend_on_the_policy(document: dict[str, Any]) -> None:
    assert document["compared_answers"] >= 100
    assert document["different_answers"] == 0
