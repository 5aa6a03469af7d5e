"""Requests without a hint: what is inferred of them, and what their clients say of themselves."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from kvflow_agents.failsafe import Failsafe
from kvflow_agents.hints import (
    CONVERSATION_FIELD,
    LAST_FIELD,
    SCOPE_FIELD,
    SESSION_FIELD,
    Hint,
    tenant_in,
)
from kvflow_agents.inference import Inference, InferredCall
from kvflow_agents.inference_workflows import Intent, Origin

# Headers by which clients name a run or a conversation. A parent names the run of its sub-agents.
SESSION_HEADERS = (
    "x-dynamo-parent-session-id",
    "x-dynamo-session-id",
    "x-parent-session-id",
    "x-session-id",
    "x-claude-code-session-id",
    "x-codex-parent-thread-id",
    "thread-id",
    "session-id",
    "session_id",
    "x-smg-routing-key",
)
# Of sub-agents that name a parent: their own conversation.
CONVERSATION_HEADERS = (
    "x-dynamo-session-id",
    "x-session-id",
    "x-claude-code-agent-id",
    "thread-id",
    *SESSION_HEADERS,
)
# Fields of the OpenAI API that SGLang drops. Several runs may share them, so that they only
# keep apart what differs in them.
SCOPE_FIELDS = ("prompt_cache_key", "safety_identifier", "user")
MAX_NAME_CHARACTERS = 128
# Requests that were aborted before they ran stay until so many others have come.
_MOST_CALLS = 65_536


def note_origin(request: Any, headers: Mapping[str, str], body: object) -> None:
    """Let a request carry what its client's headers and body say of its session and scope."""
    params = getattr(request, "sampling_params", None)
    if not isinstance(params, dict):
        return
    fields = body if isinstance(body, Mapping) else {}
    session = _first_name(headers.get(name) for name in SESSION_HEADERS)
    scope = _first_name(fields.get(name) for name in SCOPE_FIELDS)
    _add(params, {SESSION_FIELD: session, SCOPE_FIELD: scope})


def note_conversation(
    request: Any, headers: Mapping[str, str], *, goes_on: bool, is_last: bool
) -> None:
    """Let a request carry that its conversation goes on, or that its session ends with it."""
    params = getattr(request, "sampling_params", None)
    if isinstance(params, dict):
        conversation = _first_name(headers.get(name) for name in CONVERSATION_HEADERS)
        said = {CONVERSATION_FIELD: conversation if goes_on else None, LAST_FIELD: is_last or None}
        _add(params, said)


def _add(params: dict[str, Any], said: Mapping[str, object]) -> None:
    said = {field: value for field, value in said.items() if value is not None}
    custom_params = params.get("custom_params")
    if said and (custom_params is None or isinstance(custom_params, dict)):
        params["custom_params"] = {**(custom_params or {}), **said}


class InferredCallers:
    """The callers of the requests that are under way, as inferred; one for each scheduler."""

    def __init__(self, hear: Callable[[Hint], object]) -> None:
        self.inference = Inference(hear)
        self._arrivals: OrderedDict[str, Any] = OrderedDict()
        self._calls: OrderedDict[str, InferredCall] = OrderedDict()
        self._safely = Failsafe("the server")

    def arrived(self, request: Any) -> None:
        """A request (SGLang's `TokenizedGenerateReqInput`) without a hint has arrived."""
        # A request of an SGLang session holds only what is new; embeddings have no tokens.
        if request.session_params is None and request.input_ids:
            self._arrivals[request.rid] = request
            if len(self._arrivals) > _MOST_CALLS:
                self._arrivals.popitem(last=False)

    def catch_up(self, rids: Iterable[str]) -> None:
        """Process these requests and all that arrived before them, but none that arrived later."""
        if not self._arrivals:
            return
        for rid in rids:
            while rid in self._arrivals:
                self._safely(self._arrived, self._arrivals.popitem(last=False)[1])

    def caller_of(self, req: Any) -> Hint | None:
        """Who has sent a request, None where that is not sure."""
        self.catch_up([req.rid])
        call = self._calls.get(req.rid)
        return None if call is None else call.caller

    def finished(self, req: Any) -> None:
        """A request (SGLang's `Req`) has been answered."""
        call = self._calls.pop(req.rid, None)
        if call is not None:
            answer = req.full_untruncated_fill_ids[len(req.origin_input_ids) :]
            self._safely(self.inference.finished, call, answer)

    def status(self) -> dict[str, int]:
        """What was inferred, for `GET /kvflow/status`."""
        return {
            "inferred_calls": self.inference.inferred,
            "inferred_abstained": self.inference.abstained,
            "inferred_workflows": self.inference.workflows,
            "inferred_agents": self.inference.agents,
            "inferred_errors": self._safely.errors,
        }

    def _arrived(self, request: Any) -> None:
        prompt = request.input_ids
        if not isinstance(prompt, array):
            prompt = array("q", prompt)
        origin, intent = _origin_of(request), _intent_of(request)
        self._calls[request.rid] = self.inference.arrived(prompt, origin, intent)
        if len(self._calls) > _MOST_CALLS:
            self._calls.popitem(last=False)


def _said(request: Any) -> Mapping[str, Any]:
    params = request.sampling_params.custom_params
    return params if isinstance(params, Mapping) else {}


def _intent_of(request: Any) -> Intent:
    said = _said(request)
    return Intent(_first_name([said.get(CONVERSATION_FIELD)]), said.get(LAST_FIELD) is True)


def _origin_of(request: Any) -> Origin:
    said = _said(request)
    tenant = tenant_in(request.sampling_params.custom_params)
    apart = repr((request.extra_key, request.cache_salt, request.lora_id, tenant))
    # Clients choose how long it is, and thousands are remembered.
    space = blake2b(apart.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    session = _first_name((request.session_id, said.get(SESSION_FIELD)))
    return Origin(space, _first_name([said.get(SCOPE_FIELD)]), session, tenant)


def _first_name(values: Any) -> str | None:
    names = (value for value in values if isinstance(value, str) and value)
    return next((name[:MAX_NAME_CHARACTERS] for name in names), None)
