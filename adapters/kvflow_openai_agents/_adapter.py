"""The adapter's two halves put together: what the Agents SDK tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_openai_agents import _patches
from kvflow_openai_agents._internals import is_agent
from kvflow_openai_agents._observer import Observer

adapter = FrameworkAdapter(
    "OpenAI Agents SDK",
    Observer,
    _patches.find,
    takes="an agent of the OpenAI Agents SDK",
    accepts=is_agent,
)
