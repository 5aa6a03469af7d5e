"""The adapter's two halves put together: what CrewAI tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_crewai import _patches
from kvflow_crewai._internals import is_crew
from kvflow_crewai._observer import Observer

adapter = FrameworkAdapter(
    "CrewAI", Observer, _patches.find, takes="a crew of CrewAI", accepts=is_crew
)
