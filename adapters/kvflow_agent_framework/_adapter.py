"""The adapter's two halves put together: what Agent Framework tells, and who wants to know."""

from __future__ import annotations

from kvflow_agent_framework import _patches
from kvflow_agent_framework._internals import can_be_wrapped
from kvflow_agent_framework._observer import Observer
from kvflow_agents.framework import FrameworkAdapter

adapter = FrameworkAdapter(
    "Agent Framework",
    Observer,
    _patches.find,
    takes="a workflow or an agent of agent-framework",
    accepts=can_be_wrapped,
)
