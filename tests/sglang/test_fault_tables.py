"""The fault suite's look at a scheduler's tables: none is missed."""

from __future__ import annotations

from kvflow_agents.call_receipt import Admission
from kvflow_agents.forecast import Forecast
from kvflow_agents.foresight import Heard
from kvflow_agents.gathering import Gathering
from kvflow_agents.hints import Hint
from kvflow_agents.receipts import Receipts
from kvflow_faults.tables import LIMITS, sizes
from kvflow_sglang.standalone import StandaloneCache


def test_tables_are_found_wherever_they_are() -> None:
    receipts = Receipts()
    for workflow in ("one", "two"):
        for seq, request_id in enumerate((f"first of {workflow}", f"second of {workflow}")):
            hint = Hint(workflow, Forecast(seq, {"a": 1, "b": 2}), agent="a")
            receipts.arrived(request_id, hint, Heard("accepted"))
        receipts.admitted(f"first of {workflow}", Admission(10, 0, 0, 0, waited=False))
    found = sizes([receipts])
    assert found["Receipts._workflows"] == found["Receipts._under_way"] == 2
    assert found["_Workflow.agents"] == found["_Agent.last"] == 2


def test_tables_with_a_limit_are_those_of_a_cache() -> None:
    cache = StandaloneCache("kvflow", pool_tokens=100, host_ratio=2.0)
    cache.cache.gathering = Gathering()  # as the plugin does, where requests can be held
    hint = Hint("w", Forecast(1, {"a": 1, "b": 2}), agent="a")
    cache.run(range(50), hint=hint)
    found = sizes(cache.cache)
    assert found.keys() >= LIMITS.keys()
    assert found["KnownWorkflow.agents"] == 1 and found["Transitions._fronts"] == 1
