"""The check that SGLang is what kvflow was written for: each difference is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.server_args import ServerArgs
from starlette.requests import Request

from kvflow_agents.errors import IncompatibleServerError
from kvflow_sglang import self_check
from kvflow_sglang.compat import http_process, names
from kvflow_sglang.compat.hooks import HookRegistry, HookType
from kvflow_sglang.compat.radix_cache import UnifiedRadixCache, UnifiedTreeCore

# Those of the schedulers' cache; test_plugin.py looks at all, in a process of their own.
CACHE_NAMES = {name: want for name, want in names.SCHEDULER_NAMES.items() if ".mem_cache." in name}


def complaint(names: dict[str, str | None]) -> str:
    with pytest.raises(IncompatibleServerError) as caught:
        self_check.check_names(names)
    assert "start without --radix-cache-backend kvflow" in str(caught.value)
    return str(caught.value)


def test_the_installed_sglang_has_every_name() -> None:
    assert len(CACHE_NAMES) > 10
    self_check.check_names(CACHE_NAMES)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(UnifiedTreeCore, "_evict_host_leaf"), (UnifiedRadixCache, "checkpoint_into_tree")],
)
def test_a_name_that_is_gone_is_named(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(owner, name)
    said = complaint(CACHE_NAMES)
    assert f"{owner.__module__}:{owner.__name__}.{name} is missing" in said
    assert said.count("is missing") == 1


def test_other_parameters_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def _split_node(self: Any, key: Any, child: Any, split_len: int, moved: int) -> None: ...

    monkeypatch.setattr(UnifiedTreeCore, "_split_node", _split_node)
    assert "UnifiedTreeCore._split_node takes (self key child split_len moved)" in complaint(
        CACHE_NAMES
    )


def test_a_function_that_became_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnifiedTreeCore, "reset", property(lambda self: None))
    assert "UnifiedTreeCore.reset is no function" in complaint(CACHE_NAMES)


def test_a_module_that_is_gone_is_named() -> None:
    assert "sglang.srt.gone:thing is missing" in complaint({"sglang.srt.gone:thing": None})


def test_all_differences_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(UnifiedTreeCore, "_split_node")
    monkeypatch.delattr(UnifiedTreeCore, "_add_new_node")
    said = complaint(CACHE_NAMES)
    assert "_split_node is missing" in said and "_add_new_node is missing" in said


def test_another_version_is_refused_even_if_it_looks_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(self_check, "version", lambda package: "0.5.24")
    assert "sglang 0.5.24 is installed" in complaint(CACHE_NAMES)
    assert "Install sglang==0.5.23" in complaint({})


def server_args(**changed: Any) -> Any:
    """The arguments that are looked at, as SGLang has them by default."""
    given = ServerArgs(model_path="dummy", device="cpu")
    looked_at = [
        "tokenizer_worker_num",
        "pp_size",
        "disable_radix_cache",
        "radix_eviction_policy",
        "enable_session_radix_cache",
        "enable_hierarchical_cache",
        "hicache_write_policy",
        "hicache_host_memory_mode",
        "enable_unified_cache_external_linker",
        "enable_lmcache",
        "enable_flexkv",
        "disaggregation_mode",
    ]
    return SimpleNamespace(**{name: getattr(given, name) for name in looked_at} | changed)


def test_a_server_with_defaults_is_accepted() -> None:
    self_check.check_server(server_args())
    self_check.check_server(server_args(enable_hierarchical_cache=True))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tokenizer_worker_num": 2}, "--tokenizer-worker-num above 1"),
        ({"pp_size": 2}, "--pp-size above 1"),
        ({"disable_radix_cache": True}, "--disable-radix-cache"),
        ({"radix_eviction_policy": "lfu"}, "--radix-eviction-policy lfu"),
        ({"enable_session_radix_cache": True}, "--enable-session-radix-cache"),
        (
            {"enable_hierarchical_cache": True, "hicache_write_policy": "write_back"},
            "--hicache-write-policy write_back",
        ),
        ({"hicache_host_memory_mode": "buffer_only"}, "--hicache-host-memory-mode buffer_only"),
        (
            {"enable_unified_cache_external_linker": True},
            "--enable-unified-cache-external-linker",
        ),
        ({"enable_lmcache": True}, "--enable-lmcache"),
        ({"enable_flexkv": True}, "--enable-flexkv"),
        ({"disaggregation_mode": "prefill"}, "--disaggregation-mode prefill"),
    ],
)
def test_each_option_that_cannot_work_is_refused_by_name(
    changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(IncompatibleServerError) as caught:
        self_check.check_server(server_args(**changed))
    said = str(caught.value)
    assert said.startswith(f"kvflow does not work with {reason}: ")


def test_the_server_in_rust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_RUST_SERVER", "1")
    with pytest.raises(IncompatibleServerError, match="not work with SGLANG_RUST_SERVER=1: "):
        self_check.check_server(server_args())


def test_all_options_that_cannot_work_are_named_at_once() -> None:
    with pytest.raises(IncompatibleServerError, match="--enable-lmcache, --enable-flexkv"):
        self_check.check_server(server_args(enable_lmcache=True, enable_flexkv=True))


def test_a_hook_that_did_not_apply_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    there, gone = "sglang.utils.TypeBasedDispatcher.__call__", "sglang.utils.Gone.__call__"
    for target in (there, gone):
        HookRegistry.register(target, lambda *args, **kwargs: None, HookType.BEFORE)
    # Restored by monkeypatch: what the hook is about to replace.
    from sglang.utils import TypeBasedDispatcher

    monkeypatch.setattr(TypeBasedDispatcher, "__call__", TypeBasedDispatcher.__call__)
    HookRegistry.apply_hooks()  # logs that one failed, and returns
    self_check.check_hooks([there])
    with pytest.raises(IncompatibleServerError, match=f"could not hook {gone}$"):
        self_check.check_hooks([there, gone])


def test_of_a_header_that_comes_twice_the_first_counts() -> None:
    headers = [(b"x-tenant", b"proxy"), (b"accept", b"*/*"), (b"x-tenant", b"client")]
    request = Request({"type": "http", "headers": headers})
    assert http_process.headers_of(request) == {"x-tenant": "proxy", "accept": "*/*"}
    assert http_process.headers_of(request)["x-tenant"] == request.headers["x-tenant"]
    assert http_process.headers_of(None) == {}
