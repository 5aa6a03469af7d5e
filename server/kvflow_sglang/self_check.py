"""The check that SGLang is what kvflow was written for: all of it is there, or no server starts."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from kvflow_agents.errors import IncompatibleServerError
from kvflow_sglang.compat import hooks
from kvflow_sglang.compat.http_process import has_rust_server
from kvflow_sglang.compat.names import SGLANG_VERSION


def check_names(names: dict[str, str | None]) -> None:
    """IncompatibleServerError unless SGLang is the pinned version and has all these names."""
    problems = [problem for name, want in names.items() if (problem := _problem(name, want))]
    found = version("sglang")
    if found != SGLANG_VERSION:
        problems.insert(0, f"sglang {found} is installed")
    if problems:
        raise IncompatibleServerError(
            f"kvflow needs sglang=={SGLANG_VERSION} as released; "
            f"this one differs: {'; '.join(problems)}. Install sglang=={SGLANG_VERSION}, "
            "or start without --radix-cache-backend kvflow."
        )


def check_hooks(targets: Iterable[str]) -> None:
    """IncompatibleServerError unless SGLang has really applied these hooks (it only logs)."""
    missing = sorted(set(targets) - hooks.applied())
    if missing:
        raise IncompatibleServerError(f"kvflow could not hook {', '.join(missing)}")


def check_server(server_args: Any) -> None:
    """IncompatibleServerError if the server is asked for something kvflow cannot work with."""
    reasons = [reason for reason, is_asked in _unsupported(server_args) if is_asked]
    if reasons:
        raise IncompatibleServerError(
            f"kvflow does not work with {', '.join(reasons)}: "
            "leave that out, or start without --radix-cache-backend kvflow"
        )


def _unsupported(args: Any) -> Iterable[tuple[str, bool]]:
    yield "--tokenizer-worker-num above 1", args.tokenizer_worker_num > 1
    yield "--pp-size above 1", args.pp_size > 1
    yield "--disable-radix-cache", args.disable_radix_cache
    yield (
        f"--radix-eviction-policy {args.radix_eviction_policy}",
        (args.radix_eviction_policy != "lru"),
    )
    yield "--enable-session-radix-cache", args.enable_session_radix_cache
    yield (
        "--hicache-write-policy write_back",
        (args.enable_hierarchical_cache and args.hicache_write_policy == "write_back"),
    )
    yield "--hicache-host-memory-mode buffer_only", args.hicache_host_memory_mode == "buffer_only"
    yield "--enable-unified-cache-external-linker", args.enable_unified_cache_external_linker
    yield "--enable-lmcache", args.enable_lmcache
    yield "--enable-flexkv", args.enable_flexkv
    yield f"--disaggregation-mode {args.disaggregation_mode}", args.disaggregation_mode != "null"
    yield "SGLANG_RUST_SERVER=1", has_rust_server()


def _problem(name: str, wanted: str | None) -> str | None:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return f"{name} is missing"
    if wanted is None:
        return None
    if not callable(found):
        return f"{name} is no function"
    parameters = " ".join(inspect.signature(found).parameters)
    return None if parameters == wanted else f"{name} takes ({parameters})"
