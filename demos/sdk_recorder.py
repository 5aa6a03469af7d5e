"""Logs model calls that are made with the OpenAI SDK itself."""

from __future__ import annotations

import time
from typing import Any

import openai

from demos.measure import CallRecord


def recorded_call(
    sdk: openai.OpenAI, workflow: str, agent: str, *, model: str, messages: Any, max_tokens: int
) -> CallRecord:
    """Call the model, greedily, and note what it cost."""
    call = CallRecord(workflow, agent, messages, None, time.perf_counter())
    answer = sdk.chat.completions.create(
        model=model, messages=messages, max_tokens=max_tokens, temperature=0
    )
    call.ended_s = time.perf_counter()
    call.answer = (answer.choices[0].message.content or "").strip()
    if answer.usage is not None:
        call.prompt_tokens = answer.usage.prompt_tokens
        call.answer_tokens = answer.usage.completion_tokens
        details = answer.usage.prompt_tokens_details
        call.cached_tokens = (details and details.cached_tokens) or 0
    return call
