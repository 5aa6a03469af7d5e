"""Patches of a framework's methods: all or none, and removable."""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

import pytest

from kvflow_agents.patches import Method, Patch, Patches, Seam


class Engine:
    """A framework."""

    def start(self, gear: int) -> str:
        return f"gear {gear}"

    def stop(self) -> str:
        return "stopped"


START = Seam(Engine, "start", ("gear",))
STOP = Seam(Engine, "stop", ())


def shout(original: Method) -> Method:
    def method(*args: Any) -> Any:
        return str(original(*args)).upper()

    return method


def originals() -> list[object]:
    return [Engine.__dict__["start"], Engine.__dict__["stop"]]


def make(*patches: Patch) -> Patches:
    return Patches("Engine", lambda: patches)


def test_patches_are_applied_together_and_leave_no_trace() -> None:
    before = originals()
    patches = make((START, shout), (STOP, shout))
    for _ in range(2):
        assert patches.apply() and patches.apply()
        assert (Engine().start(1), Engine().stop()) == ("GEAR 1", "STOPPED")
        assert Engine.start.__name__ == "start"
        patches.remove()
        patches.remove()
        assert originals() == before


@pytest.mark.parametrize(
    ("seam", "problem"),
    [
        (Seam(Engine, "fly", ()), "Engine.fly is missing"),
        (Seam(Engine, "start", ("speed",)), "Engine.start takes ('gear',), not ('speed',)"),
    ],
)
def test_if_one_does_not_fit_none_is_applied_and_it_warns_once(
    seam: Seam, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = originals()
    patches = make((STOP, shout), (seam, shout))
    with caplog.at_level(logging.WARNING, "kvflow_agents"):
        assert not patches.apply()
        assert not patches.apply()
    assert originals() == before
    assert [record.getMessage() for record in caplog.records] == [
        f"kvflow does not know this Engine and is off: {problem}"
    ]


def test_a_version_without_a_needed_class_is_unknown() -> None:
    def find() -> list[Patch]:
        raise ImportError("no module named 'engine.pistons'")

    assert not Patches("Engine", find).apply()


def test_a_method_may_take_more_than_is_needed() -> None:
    seam = Seam(Engine, "start", (), may_take_more=True)
    assert seam.problem() is None
    needed = Seam(Engine, "start", ("speed",), may_take_more=True)
    assert needed.problem() == "Engine.start takes ('gear',), not ('speed',)"


def test_what_is_optional_may_be_missing() -> None:
    patches = make((Seam(Engine, "fly", (), is_optional=True), shout), (STOP, shout))
    assert patches.apply()
    assert Engine().stop() == "STOPPED"
    patches.remove()
    assert not hasattr(Engine, "fly")


def test_a_patch_that_somebody_has_wrapped_since_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = make((STOP, shout))
    patches.apply()
    ours = Engine.__dict__["stop"]
    monkeypatch.setattr(Engine, "stop", lambda engine: ours(engine) + "!")
    patches.remove()
    assert Engine().stop() == "STOPPED!"
    monkeypatch.undo()
    Engine.stop = ours.__wrapped__  # type: ignore[method-assign]
    assert Engine().stop() == "stopped"


def bang(original: Method) -> Method:
    return lambda engine: f"{original(engine)}!"


@pytest.mark.parametrize("names_what_it_wraps", [True, False])
def test_a_patch_that_somebody_has_wrapped_is_not_applied_twice(
    names_what_it_wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = originals()
    told: list[str] = []

    def tell(original: Method) -> Method:
        def method(engine: Engine) -> Any:
            told.append("stopped")
            return original(engine)

        return method

    patches = make((STOP, tell))
    patches.apply()
    ours = Engine.__dict__["stop"]
    with monkeypatch.context() as others:
        theirs = bang(ours)
        others.setattr(Engine, "stop", wraps(ours)(theirs) if names_what_it_wraps else theirs)
        for times in (1, 2):
            patches.remove()
            patches.apply()
            assert Engine().stop() == "stopped!"
            assert told == ["stopped"] * times
    assert Engine.__dict__["stop"] is ours
    patches.remove()
    assert originals() == before


def test_a_patch_that_somebody_has_taken_away_is_applied_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patches = make((STOP, shout))
    patches.apply()
    original = Engine.__dict__["stop"].__wrapped__
    monkeypatch.setattr(Engine, "stop", bang(Engine.__dict__["stop"]))
    patches.remove()
    monkeypatch.setattr(Engine, "stop", bang(original))
    patches.apply()
    assert Engine().stop() == "STOPPED!"
    patches.remove()
    assert Engine().stop() == "stopped!"
    monkeypatch.undo()
    Engine.stop = original  # type: ignore[method-assign]
