"""One switch for all adapters: what it turns on, what it skips, and what it says of that."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

import kvflow_agents
from kvflow_agents import ConfigurationError, instrumentation
from kvflow_agents.adapter import Subscriptions
from kvflow_agents.patches import Patch, Patches, Seam
from kvflow_agents.runs import Caller

URLS = ["http://localhost:30000/v1"]
MODULE = "kvflow_test_adapters"


class Engine:
    """Some framework's class."""

    def start(self) -> str:
        return "started"

    def stop(self) -> str:
        return "stopped"


def louder(original: Any) -> Any:
    def method(engine: Engine) -> str:
        return str(original(engine)).upper()

    return method


class Adapter:
    """An adapter of a framework that is installed, missing, or of an unknown version."""

    def __init__(self, seam: str = "start", missing: str | None = None) -> None:
        self._seam = seam
        self._missing = missing
        self.patches = Patches("Engine", self._find)
        self.subscriptions = Subscriptions(self)

    def _find(self) -> list[Patch]:
        if self._missing:
            raise ConfigurationError(self._missing)
        return [(Seam(Engine, self._seam, ()), louder)]

    def turn_on(self) -> bool:
        return self.patches.apply()

    def turn_off(self) -> None:
        self.patches.remove()

    def caller(self) -> Caller | None:
        return None


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The adapters of this process; each is what an entry point of its name leads to."""
    adapters: dict[str, Any] = {}
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == instrumentation.GROUP
        vars(module).update(adapters)
        return [EntryPoint(name, f"{MODULE}:{name}", group) for name in adapters]

    monkeypatch.setattr(instrumentation, "entry_points", entry_points)
    yield adapters
    kvflow_agents.uninstrument()
    assert Engine().start() == "started"


def test_it_turns_on_what_is_installed(registered: dict[str, Any]) -> None:
    registered["engine"] = Adapter()
    assert kvflow_agents.instrument(base_urls=URLS).on == ("engine",)
    assert Engine().start() == "STARTED"


def test_what_is_missing_or_unknown_is_skipped_with_a_line_each(
    registered: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    registered["old"] = Adapter(seam="fly")
    registered["absent"] = Adapter(missing="the adapter needs Absent, which is not installed")
    registered["engine"] = Adapter()
    with caplog.at_level(logging.INFO, "kvflow_agents"):
        found = kvflow_agents.instrument(base_urls=URLS)
    assert found.on == ("engine",)
    assert found.skipped == {
        "absent": "the adapter needs Absent, which is not installed",
        "old": "Engine.fly is missing",
    }
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "kvflow skips absent: the adapter needs Absent, which is not installed"),
        ("WARNING", "kvflow does not know this Engine and is off: Engine.fly is missing"),
    ]


def test_an_adapter_that_fails_does_not_keep_others_off(
    registered: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(instrumentation.failsafe, "errors", 0)
    registered["broken"] = object()
    registered["engine"] = Adapter()
    found = kvflow_agents.instrument(base_urls=URLS)
    assert (found.on, found.skipped) == (("engine",), {"broken": "its adapter failed"})
    assert "AttributeError" in caplog.text


def test_twice_is_as_good_as_once(registered: dict[str, Any]) -> None:
    registered["engine"] = Adapter()
    registered["old"] = Adapter(seam="fly")
    first = kvflow_agents.instrument(base_urls=URLS)
    assert kvflow_agents.instrument(base_urls=iter(URLS)) == first
    assert Engine().start() == "STARTED"
    kvflow_agents.uninstrument()
    assert Engine().start() == "started"
    kvflow_agents.uninstrument()


def test_other_servers_than_before_are_refused_by_what_is_on(registered: dict[str, Any]) -> None:
    registered["engine"] = Adapter()
    kvflow_agents.instrument(base_urls=URLS)
    found = kvflow_agents.instrument(base_urls=["http://localhost:1/v1"])
    assert found.on == ()
    assert "call uninstrument() before" in found.skipped["engine"]


def test_without_servers_nothing_is_turned_on(
    registered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    registered["engine"] = Adapter()
    with pytest.raises(ConfigurationError, match="which servers take hints"):
        kvflow_agents.instrument()
    assert Engine().start() == "started"
    monkeypatch.setenv("KVFLOW_BASE_URLS", URLS[0])
    assert kvflow_agents.instrument().on == ("engine",)


def test_adapters_are_asked_who_calls_in_the_order_of_their_names(
    registered: dict[str, Any],
) -> None:
    registered["walker"] = Adapter("stop")
    registered["engine"] = Adapter("start")
    assert kvflow_agents.instrument(base_urls=URLS).on == ("engine", "walker")


def test_every_registered_adapter_can_be_loaded() -> None:
    names = {entry.name for entry in instrumentation._entries()}
    assert {"autogen", "langgraph"} <= names
    for entry in instrumentation._entries():
        adapter = entry.load()
        assert isinstance(adapter.subscriptions, Subscriptions)
        assert isinstance(adapter.patches, Patches)
