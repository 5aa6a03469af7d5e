"""Logs the model calls of any client of the OpenAI SDK, at its HTTP client."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from demos.measure import CallLog, CallRecord

STARTED = "kvflow_demo_started_s"


def recording_client(workflow: str, agent: str, log: CallLog) -> httpx.AsyncClient:
    """An HTTP client for one agent of one workflow; it does not log calls that stream."""

    async def note_start(request: httpx.Request) -> None:
        request.extensions = {**request.extensions, STARTED: time.perf_counter()}

    async def note_end(response: httpx.Response) -> None:
        answer = json.loads(await response.aread())
        log.add(_record(workflow, agent, response.request, answer))

    return httpx.AsyncClient(
        event_hooks={"request": [note_start], "response": [note_end]}, timeout=600
    )


def _record(workflow: str, agent: str, request: httpx.Request, answer: Any) -> CallRecord:
    asked = json.loads(request.content)
    usage = answer["usage"]
    return CallRecord(
        workflow,
        agent,
        asked["messages"],
        asked.get("tools"),
        started_s=request.extensions[STARTED],
        ended_s=time.perf_counter(),
        answer=answer["choices"][0]["message"]["content"] or "",
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        answer_tokens=usage["completion_tokens"],
    )
