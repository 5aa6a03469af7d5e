"""What every adapter owes an application, whatever its framework: inherit and bring a driver."""

from __future__ import annotations

import asyncio
import gc
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient

import kvflow_agents
from kvflow_agents.adapter import Subscriptions
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.framework import FrameworkAdapter
from kvflow_agents.live_workflow import Workflow
from tests.fake_openai import FakeOpenAI, Request

NAMES = ("planner", "writer", "editor")
# Elsewhere, and nobody there.
ANOTHER_SERVER = "http://127.0.0.1:9/v1"

App = Any


class Driver(ABC):
    """One framework in the hands of the contract: apps of agents that run one after another."""

    subscriptions: Subscriptions
    failsafes: Sequence[Failsafe]
    knows_structure: ClassVar[bool] = True
    """Whether the first run is forecast, not only those that follow one."""

    @abstractmethod
    def turn_on(self, base_urls: list[str]) -> None:
        """Hint every run of the process."""

    @abstractmethod
    def turn_off(self) -> None:
        """Undo `turn_on`."""

    @abstractmethod
    def patched(self) -> list[object]:
        """The framework's methods that the adapter replaces while it is on."""

    @abstractmethod
    def build(self, server: FakeOpenAI, names: Sequence[str]) -> App:
        """An app whose agents call the model once each, in order, all with the same prompt."""

    @abstractmethod
    async def run(self, app: App) -> list[str]:
        """Run it once; what the agents answered."""

    @abstractmethod
    async def close(self, app: App) -> None:
        """The app will not be run again."""

    def is_empty(self) -> bool:
        """Whether the adapter remembers nothing of runs that are over."""
        return True


class FrameworkDriver(Driver):
    """A driver of an adapter that patches its framework."""

    def __init__(self, adapter: FrameworkAdapter[Any]) -> None:
        self.adapter = adapter
        self.subscriptions = adapter.subscriptions
        self.failsafes = [adapter.failsafe]

    def turn_on(self, base_urls: list[str]) -> None:
        self.adapter.subscriptions.subscribe_process(base_urls)

    def turn_off(self) -> None:
        self.adapter.subscriptions.unsubscribe_process()

    def patched(self) -> list[object]:
        seams = [seam for seam, _ in self.adapter.patches._find()]
        return [seam.owner.__dict__.get(seam.name) for seam in seams]

    async def close(self, app: App) -> None:
        """Unless it says otherwise, a run is over when it is over."""

    def is_empty(self) -> bool:
        gc.collect()
        return not len(self.adapter.observer._runs)


class AdapterContract:
    """Inherit, and add a fixture `driver`."""

    @pytest.fixture(autouse=True)
    def is_off_again(self, driver: Driver) -> Iterator[None]:
        errors = [failsafe.errors for failsafe in driver.failsafes]
        yield
        driver.turn_off()
        assert [failsafe.errors for failsafe in driver.failsafes] == errors
        assert driver.is_empty()

    async def test_every_call_names_its_agent(self, driver: Driver, server: FakeOpenAI) -> None:
        driver.turn_on([server.base_url])
        await driver.run(driver.build(server, NAMES))
        assert server.agents == [*NAMES]
        assert len({request.workflow for request in server.requests}) == 1

    async def test_who_runs_next_is_known_before_it_calls(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        driver.turn_on([server.base_url])
        app = driver.build(server, NAMES)
        if not driver.knows_structure:
            await driver.run(app)
            server.clear()
        await driver.run(app)
        assert_foreseen(server.requests)
        assert dict(server.requests[0].steps) == {"planner": 0, "writer": 1, "editor": 2}

    async def test_the_report_counts_the_calls_of_every_agent(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        server.prompt_tokens, server.cached_tokens = 100, 75
        kvflow_agents.reset_report()
        driver.turn_on([server.base_url])
        app = driver.build(server, NAMES)
        for _ in range(2):
            await driver.run(app)
        found = kvflow_agents.report()
        assert {each.agent: each.calls for each in found.agents} == dict.fromkeys(NAMES, 2)
        for each in found.agents:
            assert (each.errors, each.prompt_tokens, each.hit_rate) == (0, 200, 0.75)
            assert each.latency is not None
        assert all(found[name].forecast.right for name in NAMES[1:])
        assert not any(found[name].forecast.wrong for name in NAMES[1:])

    async def test_the_end_of_a_run_is_reported(self, driver: Driver, server: FakeOpenAI) -> None:
        driver.turn_on([server.base_url])
        app = driver.build(server, NAMES)
        await driver.run(app)
        assert driver.subscriptions.courier.flush(10)
        for end in server.forecasts:
            assert end.forecast.done or set(end.forecast.steps.values()) == {None}
        assert len(server.forecasts) == 1
        await driver.close(app)
        assert driver.subscriptions.courier.flush(10)
        last = server.requests[-1].hint
        end = server.forecasts[-1]
        assert last is not None and end.forecast.done
        assert end.workflow == last.workflow
        assert end.forecast.seq > last.forecast.seq

    async def test_off_again_it_leaves_no_trace(self, driver: Driver, server: FakeOpenAI) -> None:
        before = [*driver.patched(), *sdk_methods()]
        app = driver.build(server, NAMES)
        for _ in range(2):
            driver.turn_on([server.base_url])
            driver.turn_on([server.base_url])
            await driver.run(app)
            driver.turn_off()
            driver.turn_off()
            assert all(
                now is then
                for now, then in zip([*driver.patched(), *sdk_methods()], before, strict=True)
            )
        server.clear()
        await driver.run(app)
        assert server.agents == [None] * len(NAMES)

    async def test_answers_are_the_same_with_it_and_without(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        plain = await driver.run(driver.build(server, NAMES))
        driver.turn_on([server.base_url])
        assert await driver.run(driver.build(server, NAMES)) == plain

    @pytest.mark.parametrize("broken", ["plan", "finish", "hint", "end"])
    async def test_our_own_failure_never_reaches_the_app(
        self,
        driver: Driver,
        server: FakeOpenAI,
        broken: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("ours")

        plain = await driver.run(driver.build(server, NAMES))
        driver.turn_on([server.base_url])
        before = [failsafe.errors for failsafe in driver.failsafes]
        with monkeypatch.context() as patch:
            patch.setattr(Workflow, broken, fail)
            assert await driver.run(driver.build(server, NAMES)) == plain
        driver.turn_off()
        for failsafe, errors in zip(driver.failsafes, before, strict=True):
            failsafe.errors = errors
        caplog.clear()  # a traceback keeps everything alive that it went through

    async def test_servers_that_are_not_listed_get_no_hint(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        driver.turn_on([ANOTHER_SERVER])
        await driver.run(driver.build(server, NAMES))
        assert server.agents == [None] * len(NAMES)
        assert all("custom_params" not in request.body for request in server.requests)
        assert driver.subscriptions.courier.flush(10)
        assert server.forecasts == []

    async def test_a_server_that_refuses_hints_is_asked_again_without(
        self, driver: Driver, server: FakeOpenAI, caplog: pytest.LogCaptureFixture
    ) -> None:
        plain = await driver.run(driver.build(server, NAMES))
        server.clear()
        server.is_strict = True
        driver.turn_on([server.base_url])
        for _ in range(2):
            assert await driver.run(driver.build(server, NAMES)) == plain
        assert server.refused == 1
        assert server.agents == [None] * 2 * len(NAMES)
        assert [record.levelname for record in caplog.records if "hints" in record.message] == [
            "WARNING"
        ]

    async def test_runs_at_once_are_told_apart(self, driver: Driver, server: FakeOpenAI) -> None:
        driver.turn_on([server.base_url])
        if not driver.knows_structure:
            await driver.run(driver.build(server, NAMES))
            server.clear()
        server.delay_s = 0.05
        apps = [driver.build(server, NAMES) for _ in range(4)]
        await asyncio.gather(*(driver.run(app) for app in apps))
        assert_told_apart(server, runs=4)

    def test_runs_on_several_threads_are_told_apart(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        driver.turn_on([server.base_url])
        in_threads(1, lambda: driver.run(driver.build(server, NAMES)))
        server.clear()
        server.delay_s = 0.05
        in_threads(3, lambda: driver.run(driver.build(server, NAMES)))
        assert_told_apart(server, runs=3)

    async def test_agents_are_named_in_any_script(self, driver: Driver, server: FakeOpenAI) -> None:
        names = ("écrivaine", "редактор", "編集者")
        driver.turn_on([server.base_url])
        await driver.run(driver.build(server, names))
        assert server.agents == [*names]

    async def test_an_app_that_is_run_twice_stays_itself(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        driver.turn_on([server.base_url])
        app = driver.build(server, NAMES)
        for _ in range(2):
            await driver.run(app)
        assert server.agents == [*NAMES, *NAMES]
        assert len({hint.app for hint in hints(server.requests)}) == 1
        seqs: dict[str, list[int]] = {}
        for hint in hints(server.requests):
            seqs.setdefault(hint.workflow, []).append(hint.forecast.seq)
        assert all(seq == sorted(set(seq)) for seq in seqs.values())


def assert_foreseen(requests: Sequence[Request]) -> None:
    """Each caller was expected next when the one before it called."""
    for before, request in zip(requests, requests[1:], strict=False):
        assert request.agent is not None
        assert before.steps.get(request.agent) == 1, f"{request.agent} after {before.hint}"
        assert request.steps[request.agent] == 0


def assert_expected(requests: Sequence[Request]) -> None:
    """Each caller was at work or expected next when the one before it called."""
    for before, request in zip(requests, requests[1:], strict=False):
        assert request.agent is not None
        assert before.steps.get(request.agent) in (0, 1), f"{request.agent} after {before.hint}"
        assert request.steps[request.agent] == 0


def assert_told_apart(server: FakeOpenAI, *, runs: int) -> None:
    by_workflow: dict[str | None, list[Request]] = {}
    for request in server.requests:
        by_workflow.setdefault(request.workflow, []).append(request)
    assert len(by_workflow) == runs
    for requests in by_workflow.values():
        assert [request.agent for request in requests] == [*NAMES]
        assert_foreseen(requests)


def hints(requests: Sequence[Request]) -> Iterator[Any]:
    return (request.hint for request in requests if request.hint is not None)


def sdk_methods() -> list[object]:
    return [
        owner.__dict__[name]
        for owner in (SyncAPIClient, AsyncAPIClient)
        for name in ("_prepare_options", "request")
    ]


def in_threads(count: int, work: Callable[[], Awaitable[Any]]) -> None:
    """Do something in threads, each with an event loop of its own."""

    async def run() -> None:
        await work()

    threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
