"""On, off, and not at all where a framework is not what its adapter knows: inherit it."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import openai
import pytest

import kvflow_agents
from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam
from tests.adapter_contract import Driver, sdk_methods
from tests.adapter_fixtures import AnyAdapter
from tests.fake_openai import FakeOpenAI


def missing(seam: Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(seam.owner, seam.name)


def of_other_parameters(seam: Seam, monkeypatch: pytest.MonkeyPatch) -> None:
    def method(self: Any, other: Any) -> None: ...

    monkeypatch.setattr(seam.owner, seam.name, method)


Change = Callable[[Seam, pytest.MonkeyPatch], None]


def needed_seams(adapter: AnyAdapter) -> list[Seam]:
    """What a version that is known has; each once, by its name."""
    seams = [seam for seam, _ in adapter.patches._find() if not seam.is_optional]
    return list({(id(seam.owner), seam.name): seam for seam in seams}.values())


@contextmanager
def unknown_version(
    adapter: AnyAdapter,
    seam: Seam,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[str | None]:
    """A framework of which one method is not what the adapter knows; what is wrong with it."""
    monkeypatch.setattr(adapter.patches, "_has_warned", False)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "kvflow_agents"):
        change(seam, patch)
        yield seam.problem()


class AdapterLifecycle:
    """Inherit, add a fixture `driver`, and say what the framework is called."""

    extra: ClassVar[str]
    """Of `kvflow-agents`; the entry point has the same name."""
    module: ClassVar[str]
    """Without which the framework is not installed."""
    needed_module: ClassVar[str]
    """Another one, which versions that are not known may lack."""

    async def test_the_switch_for_all_frameworks_turns_it_on(
        self, driver: Driver, server: FakeOpenAI
    ) -> None:
        found = kvflow_agents.instrument(base_urls=[server.base_url])
        try:
            assert self.extra in found.on
            await driver.run(driver.build(server, ["a"]))
            assert server.agents == ["a"]
        finally:
            kvflow_agents.uninstrument()

    async def test_a_loop_of_ones_own_in_the_same_process_is_told_apart(
        self, driver: Driver, instrumented: FakeOpenAI
    ) -> None:
        client = openai.OpenAI(base_url=instrumented.base_url, api_key="key")
        with kvflow_agents.workflow("mine", base_urls=[instrumented.base_url]):
            with kvflow_agents.agent("me"):
                client.chat.completions.create(
                    model="fake", messages=[{"role": "user", "content": "hi"}]
                )
        client.close()
        await driver.run(driver.build(instrumented, ["a"]))
        assert instrumented.agents == ["me", "a"]
        mine, other = (request.workflow for request in instrumented.requests)
        assert mine == "mine" != other

    def test_other_servers_need_an_uninstrument_first(
        self, adapter: AnyAdapter, instrumented: FakeOpenAI
    ) -> None:
        adapter.subscriptions.subscribe_process(None)
        with pytest.raises(ConfigurationError, match="uninstrument"):
            adapter.subscriptions.subscribe_process(["http://elsewhere:1/v1"])

    def test_without_a_server_to_hint_nothing_is_turned_on(
        self, driver: Driver, adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
        monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
        before = [*driver.patched(), *sdk_methods()]
        with pytest.raises(ConfigurationError, match="KVFLOW_BASE_URLS"):
            adapter.subscriptions.subscribe_process(None)
        now = [*driver.patched(), *sdk_methods()]
        assert all(one is other for one, other in zip(now, before, strict=True))

    @pytest.mark.parametrize("change", [missing, of_other_parameters])
    def test_an_unknown_version_is_left_alone_with_one_warning(
        self,
        change: Change,
        adapter: AnyAdapter,
        server: FakeOpenAI,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        before = sdk_methods()
        for seam in needed_seams(adapter):
            if change is of_other_parameters and seam.may_take_more and not seam.parameters:
                continue  # any parameters will do
            caplog.clear()
            with unknown_version(adapter, seam, change, monkeypatch, caplog) as problem:
                for _ in range(2):
                    adapter.subscriptions.subscribe_process([server.base_url])
                assert all(now is then for now, then in zip(sdk_methods(), before, strict=True))
                adapter.subscriptions.unsubscribe_process()
            [said] = [each.getMessage() for each in caplog.records if each.name == "kvflow_agents"]
            assert said.endswith(f"and is off: {problem}")

    @pytest.mark.parametrize("change", [missing, of_other_parameters])
    def test_an_app_of_an_unknown_version_is_returned_as_it_is(
        self,
        change: Change,
        adapter: AnyAdapter,
        server: FakeOpenAI,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        seam, app, package = needed_seams(adapter)[0], object(), self.package()
        with unknown_version(adapter, seam, change, monkeypatch, caplog) as problem:
            for _ in range(2):
                assert package.wrap(app, base_urls=[server.base_url]) is app
        [said] = [each.getMessage() for each in caplog.records if each.name == "kvflow_agents"]
        assert said.endswith(f"and is off: {problem}")

    def test_a_framework_without_a_module_that_is_needed_is_an_unknown_version(
        self,
        adapter: AnyAdapter,
        server: FakeOpenAI,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        app = object()
        monkeypatch.setattr(adapter.patches, "_has_warned", False)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "kvflow_agents"):
            patch.setitem(sys.modules, self.needed_module, None)
            assert self.package().wrap(app, base_urls=[server.base_url]) is app
        [said] = [each.getMessage() for each in caplog.records if each.name == "kvflow_agents"]
        assert self.needed_module in said

    def package(self) -> Any:
        """The adapter's package."""
        return importlib.import_module(f"kvflow_{self.extra.replace('-', '_')}")

    def test_a_missing_package_is_named_with_what_installs_it(self) -> None:
        code = (
            f"import sys; sys.modules[{self.module!r}] = None\n"
            f"import kvflow_{self.extra.replace('-', '_')} as ours, kvflow_agents\n"
            "try:\n"
            "    ours.instrument(base_urls=['http://localhost:1/v1'])\n"
            "except kvflow_agents.ConfigurationError as error:\n"
            "    print(error)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert f"kvflow-agents[{self.extra}]" in result.stdout
