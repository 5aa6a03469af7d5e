"""The switches in a running server, on what stands for SGLang's objects."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvflow_bench import instruments
from kvflow_bench.instruments import DELAY_VARIABLE, POISON, VARIABLE, DeferredCopy


@pytest.fixture
def switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Turns switches on, and those that are not named off."""
    path = tmp_path / "switches.json"
    monkeypatch.setenv(VARIABLE, str(path))
    monkeypatch.setenv(DELAY_VARIABLE, "")  # put back afterwards
    return lambda **on: path.write_text(json.dumps(on))


class Slots:
    """Slots in CPU memory, by which a buffer is indexed."""

    is_cuda = False

    def __len__(self) -> int:
        return 3

    def long(self) -> str:
        return "slots"


def pool() -> Any:
    return SimpleNamespace(k_buffer=[{}, {}], v_buffer=[{}])


def test_no_file_or_half_a_one_switches_nothing_on(switch: Any) -> None:
    assert instruments.switches() == {}
    Path(os.environ[VARIABLE]).write_text('{"poison": tr')
    assert instruments.switches() == {}


def test_a_load_is_delayed_and_its_slots_are_poisoned_before_it(switch: Any) -> None:
    device = pool()
    transfer = SimpleNamespace(device_pool=device, device_indices=Slots())
    engine = SimpleNamespace(host_to_device_stream=None)
    seen: list[Any] = []

    def submit(engine: Any, transfers: Any, **kwargs: Any) -> str:
        seen.append((os.environ[DELAY_VARIABLE], dict(device.k_buffer[0]), kwargs))
        return "submitted"

    for on in ({}, {"h2d_delay_cycles": 20, "poison": True}):
        switch(**on)
        assert instruments._submit(submit, engine, [transfer], layers=2) == "submitted"
    assert seen == [("0", {}, {"layers": 2}), ("20", {"slots": POISON}, {"layers": 2})]
    assert device.k_buffer == [{"slots": POISON}] * 2 and device.v_buffer == [{"slots": POISON}]


def test_the_fence_is_off_while_it_is_switched_off(switch: Any) -> None:
    loads = SimpleNamespace(_is_fenced=True)
    for unfenced in (True, False):
        switch(unfenced=unfenced)
        fenced = instruments._finish(lambda loads, **_: loads._is_fenced, loads, waits=False)
        assert fenced is not unfenced


def test_a_deferred_copy_moves_its_bytes_when_it_is_waited_for_and_once() -> None:
    moved: list[str] = []
    copy = DeferredCopy(lambda: moved.append("bytes"), passes=2, tokens=3, size_bytes=0)
    assert [copy.finish_event.query() for _ in range(4)] == [False, False, True, True]
    assert moved == []
    copy.finish_event.synchronize()
    copy.finish_event.synchronize()
    assert moved == ["bytes"]
    early = DeferredCopy(lambda: moved.append("early"), passes=99, tokens=3, size_bytes=0)
    early.synchronize()
    assert early.query() and moved == ["bytes", "early"]


def test_only_while_it_is_switched_on_a_copy_ahead_is_put_off(switch: Any) -> None:
    device = pool()
    controller = SimpleNamespace(mem_pool_device=device)
    started: list[Any] = []

    def start(*arguments: Any) -> str:
        started.append(arguments)
        return "started"

    arguments = (controller, "engine", "host", Slots())
    assert instruments._copy_ahead(start, *arguments) == "started"
    switch(defer_passes=2, poison=True)
    copy = instruments._copy_ahead(start, *arguments)
    assert (len(started), copy.tokens, device.k_buffer[0]) == (1, 3, {"slots": POISON})
    copy.synchronize()
    assert started[1] == arguments
