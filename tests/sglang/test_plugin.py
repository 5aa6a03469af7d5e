"""The plugin in SGLang's processes: inert unless asked for, and then completely or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kvflow_sglang
from kvflow_agents.errors import IncompatibleServerError
from kvflow_sglang import cpu_engine, plugin, self_check
from kvflow_sglang.command_line import asks_for_kvflow
from kvflow_sglang.compat import hooks, radix_cache, transport
from kvflow_sglang.server_process import ServerProcess, ServerStartError


def test_the_entry_point_loads() -> None:
    (found,) = entry_points(group="sglang.srt.plugins", name="kvflow")
    assert found.load() is kvflow_sglang.register


# Does what a server that does not use kvflow does in its two kinds of processes, and tells.
STOCK = """
import json, multiprocessing, sys
from sglang.srt.entrypoints import http_server
from sglang.srt.managers.tokenizer_control_mixin import _COMMUNICATOR_SPECS
from sglang.srt.mem_cache import registry
from sglang.srt.plugins import load_plugins
from sglang.srt.plugins.hook_registry import HookRegistry

routes = list(http_server.app.routes)
load_plugins()
told = {
    "hooks": sorted(HookRegistry._hooks),
    "patched": sorted(HookRegistry._patched),
    "new routes": len(http_server.app.routes) - len(routes),
    "communicators": [name for name, _ in _COMMUNICATOR_SPECS if "kvflow" in name],
    "imported": sorted(name for name in sys.modules if name.startswith("kvflow_sglang.")),
}
import sglang.srt.managers.scheduler
import kvflow_sglang
from kvflow_sglang import self_check
from kvflow_sglang.compat import hooks, names

multiprocessing.parent_process = lambda: "a launcher"
kvflow_sglang.register()
told["hooks of a scheduler"] = sorted(HookRegistry._hooks)
told["backends"] = registry.registered_radix_cache_backends()
self_check.check_names({**names.SCHEDULER_NAMES, **names.LAUNCHER_NAMES})
told["names"] = "all there"
print("TOLD" + json.dumps(told))
"""


def environment(folder: Path | None = None, **variables: str) -> dict[str, str]:
    """Of a process that can import all of SGLang; `folder` is searched for modules first."""
    given = {} if folder is None else {"PYTHONPATH": str(folder)}
    return {**os.environ, **cpu_engine.environment(given), **variables}


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-c", STOCK],
        env=environment(SGLANG_PLUGINS="kvflow"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (told,) = (line for line in ran.stdout.splitlines() if line.startswith("TOLD"))
    found: dict[str, Any] = json.loads(told.removeprefix("TOLD"))
    return found


def test_a_stock_server_gets_one_hook_and_nothing_else(stock: dict[str, Any]) -> None:
    assert stock["hooks"] == stock["patched"] == [hooks.LAUNCH_HOOK]
    assert stock["hooks of a scheduler"] == stock["hooks"]
    assert (stock["new routes"], stock["communicators"]) == (0, [])
    assert stock["imported"] == [
        "kvflow_sglang.command_line",
        "kvflow_sglang.compat",
        "kvflow_sglang.compat.hooks",
        "kvflow_sglang.compat.http_process",
        "kvflow_sglang.compat.names",
        "kvflow_sglang.compat.transport",
        "kvflow_sglang.plugin",
        "kvflow_sglang.self_check",
    ]
    assert stock["backends"] == ["kvflow"]


def test_the_installed_sglang_has_every_name(stock: dict[str, Any]) -> None:
    assert stock["names"] == "all there"


def test_the_hook_of_a_stock_server_passes_everything_on() -> None:
    calls = []

    def launch(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return "launched"

    args = SimpleNamespace(radix_cache_backend=None)
    assert plugin._launch(launch, "cls", args, 1, port_args=2) == "launched"
    assert plugin._launch(launch, "cls", server_args=args) == "launched"
    assert calls == [(("cls", args, 1), {"port_args": 2}), (("cls", args), {})]


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (["sglang", "--radix-cache-backend", "kvflow"], True),
        (["sglang", "--radix-cache-backend=kvflow"], True),
        (["sglang", "--radix-cache-backend", "other"], False),
        (["sglang", "--model-path", "kvflow-model"], False),
        ([], False),
    ],
)
def test_the_command_line_tells_whether_kvflow_is_asked_for(argv: list[str], asked: bool) -> None:
    assert asks_for_kvflow(argv) is asked


def test_msgpack_is_preferred_before_sglang_has_read_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.delitem(sys.modules, transport.READ_BY, raising=False)
    assert transport.prefer_msgpack(environment) and environment == transport.MSGPACK
    environment[transport.VARIABLE] = "1"
    assert transport.prefer_msgpack(environment) and environment == {transport.VARIABLE: "1"}
    monkeypatch.setitem(sys.modules, transport.READ_BY, None)
    assert not transport.prefer_msgpack(environment := {})
    assert environment == {}


def test_a_failing_check_ends_the_process_although_sglang_catches_exceptions() -> None:
    def check(argument: str) -> None:
        raise IncompatibleServerError(f"no {argument}")

    with pytest.raises(SystemExit, match="kvflow: no luck"):
        try:
            plugin._exit_unless(check, "luck")
        except Exception as error:  # what SGLang does with a plugin that raises
            pytest.fail(f"caught {error!r}")


@pytest.mark.parametrize("layers", ["is_hybrid_swa", "is_hybrid_ssm"])
def test_a_model_without_full_attention_is_refused(
    layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "check_names", lambda names: None)
    monkeypatch.setattr(self_check, "check_server", lambda args: None)
    context = SimpleNamespace(server_args=None, is_hybrid_swa=False, is_hybrid_ssm=False)
    setattr(context, layers, True)
    with pytest.raises(IncompatibleServerError, match="full attention only"):
        plugin.make_cache(context)


def test_a_scheduler_without_the_door_in_front_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a launcher that had begun before plugins were loaded."""
    monkeypatch.setattr(self_check, "check_names", lambda names: None)
    monkeypatch.setattr(self_check, "check_server", lambda args: None)
    monkeypatch.delenv(plugin.DOOR_VARIABLE, raising=False)
    context = SimpleNamespace(server_args=None, is_hybrid_swa=False, is_hybrid_ssm=False)
    with pytest.raises(IncompatibleServerError, match="not in front of this scheduler"):
        plugin.make_cache(context)


@pytest.mark.parametrize("has_engine", [False, True])
def test_a_launcher_that_is_a_child_process_gets_the_door_too(
    has_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked: list[str] = []
    register = lambda target, *args: hooked.append(target)  # noqa: E731
    monkeypatch.setattr(plugin, "HookRegistry", SimpleNamespace(register=register))
    monkeypatch.setattr(radix_cache, "register_radix_cache_backend", lambda *backend: None)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "somebody's process")
    monkeypatch.setitem(sys.modules, "sglang.srt.managers.scheduler", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "sglang.srt.entrypoints.engine", raising=False)
    if has_engine:
        monkeypatch.setitem(sys.modules, "sglang.srt.entrypoints.engine", SimpleNamespace())
    plugin.register()
    assert hooked == [hooks.LAUNCH_HOOK] * has_engine


# Python runs a module of this name at its start: one name is deleted once its module is there.
BREAKER = """
import importlib.abc, importlib.util, os, sys

MODULE, _, PATH = os.environ["KVFLOW_TEST_DELETES"].partition(":")


class Breaker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            *owners, name = PATH.split(".")
            for owner in owners:
                module = getattr(module, owner)
            delattr(module, name)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Breaker())
"""
IN_LAUNCHER = "sglang.srt.managers.tokenizer_control_mixin:_COMMUNICATOR_SPECS"
IN_SCHEDULER = (
    "sglang.srt.mem_cache.unified_cache.unified_tree_core:UnifiedTreeCore._evict_host_leaf"
)


@pytest.fixture(scope="module")
def last_words(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """How servers ended whose SGLang lacks a name, by name; both at once, to save time."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "sitecustomize.py").write_text(BREAKER)

    def start(missing: str) -> str:
        server = ServerProcess(
            tiny_model,
            ["--engine", "cpu", "--skip-server-warmup"],
            log=folder / f"{missing.rpartition('.')[2]}.log",
            env={"PYTHONPATH": str(folder), "KVFLOW_TEST_DELETES": missing},
        )
        try:
            with pytest.raises(ServerStartError) as caught:
                server.start()
        finally:
            server.stop()
        return f"{caught.value}\n{server.log.read_text()}"

    names = [IN_LAUNCHER, IN_SCHEDULER]
    with ThreadPoolExecutor() as pool:
        yield dict(zip(names, pool.map(start, names), strict=True))


@pytest.mark.parametrize("missing", [IN_LAUNCHER, IN_SCHEDULER])
def test_a_server_does_not_start_if_sglang_lacks_a_name(
    missing: str, last_words: dict[str, str]
) -> None:
    said = last_words[missing]
    assert "the server ended with status" in said
    assert "status 0 " not in said
    assert f"kvflow needs sglang==0.5.23 as released; this one differs: {missing} is missing" in (
        said
    )


def test_what_the_launcher_lacks_stops_it_before_it_starts_anything(
    last_words: dict[str, str],
) -> None:
    assert "kvflow: kvflow needs" in last_words[IN_LAUNCHER]
    assert "Load weight" not in last_words[IN_LAUNCHER]
    assert "Traceback" not in last_words[IN_LAUNCHER]
    assert "Load weight" in last_words[IN_SCHEDULER]
