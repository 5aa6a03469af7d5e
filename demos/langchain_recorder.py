"""Logs the model calls of a LangGraph run."""

from __future__ import annotations

import re
import time
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langchain_core.outputs import LLMResult

from demos.measure import CallLog, CallRecord


class Recorder(BaseCallbackHandler):
    """Logs one workflow's model calls; passed in its run's config like any LangChain handler."""

    run_inline = True  # or the times of asynchronous calls are those of another task

    def __init__(self, workflow: str, log: CallLog) -> None:
        self._workflow = workflow
        self._log = log
        self._open: dict[UUID, CallRecord] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        tools = (kwargs.get("invocation_params") or {}).get("tools")
        agent = agent_of(metadata or {})
        asked: Any = convert_to_openai_messages(messages[0])
        call = CallRecord(self._workflow, agent, asked, tools, time.perf_counter())
        self._open[run_id] = call

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._open.pop(run_id)
        call.ended_s = time.perf_counter()
        message = getattr(response.generations[0][0], "message", None)
        usage = getattr(message, "usage_metadata", None) or {}
        call.answer = response.generations[0][0].text
        call.prompt_tokens = usage.get("input_tokens", 0)
        call.answer_tokens = usage.get("output_tokens", 0)
        call.cached_tokens = usage.get("input_token_details", {}).get("cache_read", 0)
        self._log.add(call)


def agent_of(metadata: dict[str, Any]) -> str:
    """Which node made a call, as a path: `research/model`."""
    namespace = str(metadata.get("langgraph_checkpoint_ns", "?"))
    path = re.sub(r":[^|]*", "", namespace).replace("|", "/")
    name = metadata.get("lc_agent_name")
    return f"{path} ({name})" if name and name not in path.split("/") else path
