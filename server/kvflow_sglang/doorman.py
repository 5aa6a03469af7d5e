"""What is checked of a request before it may reach a scheduler."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from kvflow_agents.errors import HintError
from kvflow_agents.hints import REQUEST_FIELDS, TENANT_FIELD, Hint, decode_request, encode_request
from kvflow_agents.tenants import Tenant
from kvflow_sglang.identity import Identity
from kvflow_sglang.settings import Settings

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def now_ms() -> int:
    """The clock by which messages are stamped: one process, so that all ranks have the same.

    Not the time of day, which may be set: a clock that fell back would stand still for so long.
    """
    return time.monotonic_ns() // 1_000_000


class Doorman:
    """Takes malformed hints off requests, and counts them by reason.

    The request itself goes on: a hint is advice. Only `custom_params` that the msgpack transport
    cannot carry are refused, hint or not: they would kill the scheduler behind it. Hints that go
    on are stamped with the time, and every request with its tenant.
    """

    def __init__(
        self,
        *,
        allows_nesting: bool,
        clock: Callable[[], int] = now_ms,
        identity: Identity | None = None,
    ) -> None:
        """`allows_nesting`: whether the transport takes any JSON (pickle) or one level."""
        self._allows_nesting = allows_nesting
        self.identity = identity or Identity(Settings())
        self._clock = clock
        self.refused: Counter[str] = Counter()

    def admit(self, request: Any, headers: Mapping[str, str] = NO_HEADERS) -> HintError | None:
        """Clean the sampling parameters of SGLang's `GenerateReqInput`; ValueError to refuse.

        Why a hint was taken off it, if one was.
        """
        params = getattr(request, "sampling_params", None)
        refusal: HintError | None = None
        for each in params if isinstance(params, list) else [params]:
            if isinstance(each, dict) and each.get("custom_params") is not None:
                each["custom_params"], found = self._clean(each["custom_params"])
                refusal = refusal or found
        if hasattr(request, "sampling_params"):
            _set_tenants(request, self.identity.of_request(request, headers))
        return refusal

    def _clean(self, custom_params: object) -> tuple[object, HintError | None]:
        if not isinstance(custom_params, Mapping):
            if self._allows_nesting:
                return custom_params, None  # no hint, and nothing that a scheduler minds
            raise ValueError("custom_params must be an object")
        cleaned, hint, refusal = dict(custom_params), None, None
        try:
            hint = decode_request(cleaned)
        except HintError as error:
            self.refused[error.reason] += 1
            refusal = error
        for field in REQUEST_FIELDS:
            cleaned.pop(field, None)
        if hint is not None:
            # Not as it came: what a later version may add is not known to be safe.
            cleaned |= encode_request(self.stamped(hint))
        if not self._allows_nesting:
            _refuse_what_msgpack_lacks(cleaned)
        return cleaned, refusal

    def stamped(self, hint: Hint, tenant: Tenant = None) -> Hint:
        """A hint as it goes on: with the time and its tenant, its names perhaps hashed."""
        return self.identity.hidden(hint)._replace(at_ms=self._clock(), tenant=tenant)


def _set_tenants(request: Any, tenants: Tenant | list[Tenant]) -> None:
    """Let each request of a batch, or the only one, carry its tenant."""
    if tenants is None:
        return
    params = request.sampling_params
    if isinstance(tenants, list):
        each_of = params if isinstance(params, list) else [params] * len(tenants)
        if len(each_of) == len(tenants):  # or SGLang refuses the batch
            pairs = zip(each_of, tenants, strict=True)
            request.sampling_params = [_with_tenant(each, tenant) for each, tenant in pairs]
    elif isinstance(params, list):
        request.sampling_params = [_with_tenant(each, tenants) for each in params]
    else:
        request.sampling_params = _with_tenant(params, tenants)


def _with_tenant(params: Any, tenant: Tenant) -> Any:
    if tenant is None or not isinstance(params, dict | None):
        return params
    custom_params = (params or {}).get("custom_params")
    if not isinstance(custom_params, Mapping | None):
        return params  # no hint either
    return {**(params or {}), "custom_params": {**(custom_params or {}), TENANT_FIELD: tenant}}


def _refuse_what_msgpack_lacks(custom_params: Mapping[str, Any]) -> None:
    try:
        msgspec.msgpack.encode(custom_params)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"custom_params hold what this server cannot carry: {error}") from error
    for name, value in custom_params.items():
        inner = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, Mapping | list) and not all(map(_is_scalar, inner)):
            raise ValueError(
                f"custom_params[{name!r}] nests deeper than this server can carry: "
                "use lists and objects of plain values, or start it with SGLANG_USE_PICKLE_IPC=1"
            )


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
