"""The adapter's two halves put together: what AutoGen tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_autogen import _patches
from kvflow_autogen._internals import can_be_wrapped
from kvflow_autogen._observer import Observer

adapter = FrameworkAdapter(
    "AutoGen",
    Observer,
    _patches.find,
    takes="a team or an agent of autogen-agentchat",
    accepts=can_be_wrapped,
)
