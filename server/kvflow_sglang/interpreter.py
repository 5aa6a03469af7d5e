"""What clients say in the forms of other projects, in ours (docs/wire.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kvflow_agents.agent_hints import (
    FINAL_HEADER,
    PARENT_HEADER,
    SESSION_HEADER,
    AgentHints,
    decode_agent_hints,
)
from kvflow_agents.envelope import ENVELOPE_FIELD, decode_envelope, without_forecasts
from kvflow_agents.errors import HintError
from kvflow_agents.failsafe import Failsafe
from kvflow_agents.hints import FIELD, Hint, encode_request
from kvflow_sglang.compat import http_process
from kvflow_sglang.inferred import SESSION_HEADERS, note_conversation, note_origin
from kvflow_sglang.settings import Settings

SESSION = SESSION_HEADER.lower()
PARENT = PARENT_HEADER.lower()
# By these a sub-agent's session is known; its workflow goes on without it.
SUB_AGENT_HEADERS = (
    PARENT,
    "x-parent-session-id",
    "x-codex-parent-thread-id",
    "x-claude-code-agent-id",
)


class Interpreter:
    """Reads envelopes, session headers and `nvext.agent_hints` of requests in the HTTP process.

    What means nothing here is ignored and counted by its name, what is malformed is counted by
    its reason beside malformed hints. Neither fails a request.
    """

    def __init__(
        self, refused: Counter[str], *, settings: Settings, priority_sign: int | None
    ) -> None:
        """Without `Settings.infer` sessions mean nothing.

        `priority_sign` turns "higher is more important" into the server's order; None if it has
        none.
        """
        self.heard: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self._refused = refused
        self._infers = settings.infer
        self._least_priority, self._most_priority = settings.least_priority, settings.most_priority
        self._priority_sign = priority_sign
        self._safely = Failsafe("the server")

    def take_envelopes(self, request: Any, body: object) -> HintError | None:
        """Let forecasts in `kv_hints` of SGLang's `GenerateReqInput`, or of a body of which SGLang
        drops them, travel like any hint. Why one cannot, if that is so."""
        refusals: list[HintError] = []
        self._safely(self._take_envelopes, request, body, refusals)
        return refusals[0] if refusals else None

    def take_agent_hints(self, request: Any, headers: Mapping[str, str], body: object) -> None:
        """Let what Dynamo's clients say of a call count, as far as it means something here."""
        self._safely(self._take_agent_hints, request, headers, body)

    def _take_envelopes(self, request: Any, body: object, refusals: list[HintError]) -> None:
        envelopes = http_process.kv_hints_of(request)
        if envelopes is None and isinstance(body, Mapping):
            envelopes = body.get(ENVELOPE_FIELD)
        if not envelopes:
            return
        if not isinstance(envelopes, list):
            hint = self._hint(envelopes, refusals)
            if hint is not None:
                _add_to_all(request, hint)
            rest = without_forecasts(envelopes)
        else:
            _add_to_each(request, [each and self._hint(each, refusals) for each in envelopes])
            rest = [without_forecasts(each) for each in envelopes]
        if getattr(request, ENVELOPE_FIELD, None) is not None:
            request.kv_hints = rest

    def _hint(self, envelope: object, refusals: list[HintError]) -> Hint | None:
        try:
            hint = decode_envelope(envelope)
        except HintError as error:
            self._refused[error.reason] += 1
            refusals.append(error)
            return None
        self.heard[ENVELOPE_FIELD] += hint is not None
        return hint

    def _take_agent_hints(self, request: Any, headers: Mapping[str, str], body: object) -> None:
        try:
            said = decode_agent_hints(body) or AgentHints()
        except HintError as error:
            self._refused[error.reason] += 1
            said = AgentHints()
        self.ignored.update(said.ignored)
        self._set_priority(request, said.priority)
        has_session = any(headers.get(name) for name in SESSION_HEADERS)
        is_final = headers.get(FINAL_HEADER.lower(), "").lower() == "true"
        knows_session = has_session and self._infers
        is_last = is_final and knows_session and not _is_of_sub_agent(headers)
        goes_on = said.goes_on and knows_session and not is_last
        self._count("session", has_session, counts=knows_session)
        self._count("session_final", is_final, counts=is_last)
        self._count("speculative_prefill", said.goes_on, counts=goes_on)
        if self._infers:
            note_origin(request, headers, body)
            note_conversation(request, headers, goes_on=goes_on, is_last=is_last)

    def _set_priority(self, request: Any, priority: int | None) -> None:
        own, sign = getattr(request, "priority", None), self._priority_sign
        if own is None and priority is not None:
            self._count("priority", True, counts=sign is not None)
            own = None if sign is None else sign * priority
        if sign is not None and isinstance(own, int):
            request.priority = sign * self._bounded(sign * own)

    def _bounded(self, priority: int) -> int:
        if self._least_priority is not None:
            priority = max(priority, self._least_priority)
        return priority if self._most_priority is None else min(priority, self._most_priority)

    def _count(self, name: str, is_said: bool, *, counts: bool) -> None:
        if is_said:
            (self.heard if counts else self.ignored)[name] += 1


def _is_of_sub_agent(headers: Mapping[str, str]) -> bool:
    """Whether a session has a parent; Dynamo's own headers replace those of coding agents."""
    names = (PARENT,) if headers.get(SESSION) else SUB_AGENT_HEADERS
    return any(headers.get(name) for name in names)


def _add_to_all(request: Any, hint: Hint) -> None:
    params = request.sampling_params
    if isinstance(params, list):
        request.sampling_params = [_with_hint(each, hint) for each in params]
    else:
        request.sampling_params = _with_hint(params, hint)


def _add_to_each(request: Any, hints: list[Hint | None]) -> None:
    """Of a batch each request may have a hint of its own."""
    if not any(hints):
        return
    params = request.sampling_params
    if not isinstance(params, list):
        params = [params] * len(hints)
    if len(params) == len(hints):  # or SGLang refuses the batch
        request.sampling_params = [
            _with_hint(each, hint) for each, hint in zip(params, hints, strict=True)
        ]


def _with_hint(params: Any, hint: Hint | None) -> Any:
    """Sampling parameters with a hint in them, unless there is one or no room for it."""
    if params is not None and not isinstance(params, dict):
        return params
    params = params or {}
    custom_params = params.get("custom_params") or {}
    if hint is None or not isinstance(custom_params, dict) or FIELD in custom_params:
        return params
    return {**params, "custom_params": {**custom_params, **encode_request(hint)}}
