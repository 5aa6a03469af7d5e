"""The adapter's two halves put together: what Google ADK tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_google_adk import _patches
from kvflow_google_adk._internals import is_runner
from kvflow_google_adk._observer import Observer

adapter = FrameworkAdapter(
    "Google ADK", Observer, _patches.find, takes="a runner of Google ADK", accepts=is_runner
)
