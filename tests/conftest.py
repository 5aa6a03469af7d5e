"""What holds for the tests of every package."""

from __future__ import annotations

import pytest

from kvflow_agents.refusal import Refusals
from kvflow_agents.sdk import sdk


@pytest.fixture(autouse=True)
def nobody_has_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another test, at the same port, may have refused hints."""
    monkeypatch.setattr(sdk, "_refusals", Refusals())
