"""Data-parallel schedulers behind one HTTP process: what one of them is told, all hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kvflow_agents.errors import HintError
from kvflow_agents.hints import FIELD, decode_request
from kvflow_sglang.messages import to_notice

# Later than the request itself, whose own scheduler had better hear the hint from the request.
LATER_S = 0.02


class Replicas:
    """Passes the hints of requests on to the schedulers that do not get the request.

    SGLang sends a request to one of them; a workflow's agents may have KV on any. Nothing waits
    for this, and there is no answer.
    """

    def __init__(self, tell: Callable[[Any, Any], None]) -> None:
        """`tell(manager, message)` sends a message to every scheduler."""
        self._tell = tell

    def pass_on(self, manager: Any, request: Any) -> None:
        """Tell all of a request's hints, in a moment; the request was admitted before."""
        params = getattr(request, "sampling_params", None)
        for each in params if isinstance(params, list) else [params]:
            custom_params = each.get("custom_params") if isinstance(each, dict) else None
            if isinstance(custom_params, Mapping) and FIELD in custom_params:
                self._tell_later(manager, custom_params)

    def _tell_later(self, manager: Any, custom_params: Mapping[str, Any]) -> None:
        try:
            hint = decode_request(custom_params)
        except HintError:  # a scheduler will count it
            return
        if hint is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(LATER_S, self._tell, manager, to_notice(hint))
