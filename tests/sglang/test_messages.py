"""A forecast is the same on both sides of the processes' boundary."""

from __future__ import annotations

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_sglang.messages import to_hint, to_message


def test_a_hint_comes_back_from_a_message() -> None:
    forecast = Forecast(
        3, {"a": 0, "b": None}, due_ms={"a": 9}, chance={"a": 4, "b": 0}, loras={"b": "x"}
    )
    for each in (forecast, Forecast(4, done=True), Forecast(5, {"a": 1}, changes=True)):
        hint = Hint("run", each, app="app")
        assert to_hint(to_message(hint)) == hint
