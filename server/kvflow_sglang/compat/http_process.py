"""SGLang's HTTP process: its application, what comes in, and messages to the schedulers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sglang.srt.managers.io_struct import BaseReq, hook_custom_types

__all__ = ["BaseReq", "hook_custom_types"]


def http_app() -> Any:
    """SGLang's FastAPI application."""
    from sglang.srt.entrypoints import http_server

    return http_server.app


def allow_unauthorized() -> Any:
    """The decision that a request needs no API key."""
    from sglang.srt.utils.auth import AuthDecision

    return AuthDecision(allowed=True)


def add_routes(app: Any, router: Any) -> None:
    """Serve a router's routes, one by one: what `include_router` of FastAPI adds hides from SGLang
    which endpoints are marked as those of administration."""
    app.router.routes.extend(router.routes)


def for_operators(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an endpoint as SGLang's own for administration: the admin key's, where there is one."""
    from sglang.srt.utils.auth import AuthLevel, auth_level

    marked: Callable[..., Any] = auth_level(AuthLevel.ADMIN_OPTIONAL)(endpoint)
    return marked


def has_pickle_transport() -> bool:
    """Whether requests travel to the schedulers as pickle, which takes any JSON, or msgpack."""
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_USE_PICKLE_IPC.get())


def has_rust_server() -> bool:
    """Whether requests come in by SGLang's HTTP server in Rust, past everything hooked here."""
    from sglang.srt.environ import envs

    return bool(envs.SGLANG_RUST_SERVER.get())


def json_body(request: Any) -> object:
    """The body of an HTTP request as it was parsed, with the fields that SGLang drops.

    None if nobody has parsed it; Starlette keeps it, so that it is not read again.
    """
    return getattr(request, "_json", None)


def headers_of(request: Any) -> Mapping[str, str]:
    """The headers of an HTTP request; of a name that comes twice the first, as Starlette has it.

    A dictionary, because each look-up in Starlette's reads them all, and most names are missing:
    those that are there are in lower case, so look up no others.
    """
    items = reversed(getattr(request, "headers", {}).items())
    return {name.lower(): value for name, value in items}


def kv_hints_of(request: Any) -> object:
    """The envelope of a `GenerateReqInput`, or the envelopes of a batch, as JSON; None without."""
    return msgspec.to_builtins(getattr(request, "kv_hints", None))


def priority_sign(server_args: Any) -> int | None:
    """1 if a server serves higher priorities first, -1 if lower ones, None if it has no order."""
    if not server_args.enable_priority_scheduling:
        return None
    return -1 if server_args.schedule_low_priority_values_first else 1


def add_control_message(name: str, answer: type) -> None:
    """Let `ask_schedulers(name, ...)` be answered by `answer`; before the server is built."""
    from sglang.srt.managers import tokenizer_control_mixin

    tokenizer_control_mixin._COMMUNICATOR_SPECS.append((name, answer))


async def ask_schedulers(name: str, message: Any) -> list[Any]:
    """Send a control message to every scheduler; their answers, one of each."""
    from sglang.srt.entrypoints.http_server import get_global_state

    manager = get_global_state().tokenizer_manager
    manager.auto_create_handle_loop()
    answers: list[Any] = await getattr(manager, f"{name}_communicator")(message)
    return answers


def has_replicas(server_args: Any) -> bool:
    """Whether a request goes to one of several schedulers that share nothing."""
    return bool(server_args.dp_size > 1 or server_args.attn_dp_size > 1)


def tell_schedulers(manager: Any, message: Any) -> None:
    """Send a control message to every scheduler; there is no answer."""
    manager._dispatch_to_scheduler(message)
