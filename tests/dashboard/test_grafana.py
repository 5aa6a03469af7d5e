"""The Grafana dashboard, against the types that Grafana generates from its own schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

FILE = Path(__file__).parents[2] / "docs" / "grafana" / "kvflow.json"


@pytest.fixture(scope="module", autouse=True)
def _panels() -> None:
    """The types know panels and queries by what is registered."""
    register_default_plugins()


def unread(said: Any, read: Any, at: str = "") -> Iterator[str]:
    """What of a document is not in what its types have read of it, or differs there."""
    if isinstance(said, dict) and isinstance(read, dict):
        for name, value in said.items():
            yield from unread(value, read.get(name), f"{at}/{name}")
    elif isinstance(said, list) and isinstance(read, list) and len(said) == len(read):
        for place, (one, other) in enumerate(zip(said, read, strict=True)):
            yield from unread(one, other, f"{at}/{place}")
    elif said != read:
        yield at


def unread_by_grafana(dashboard: dict[str, Any]) -> list[str]:
    read = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    return list(unread(dashboard, read))


def test_grafanas_types_read_every_field_of_the_dashboard() -> None:
    dashboard = json.loads(FILE.read_text())
    assert unread_by_grafana(dashboard) == []
    panel = next(each for each in dashboard["panels"] if each.get("targets"))
    panel["gridPos"]["width"] = 24
    panel["targets"][0]["expression"] = "up"
    place = f"/panels/{dashboard['panels'].index(panel)}"
    assert sorted(unread_by_grafana(dashboard)) == [
        f"{place}/gridPos/width",
        f"{place}/targets/0/expression",
    ]
