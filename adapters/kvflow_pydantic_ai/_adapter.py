"""The adapter's two halves put together: what Pydantic AI tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_pydantic_ai import _patches
from kvflow_pydantic_ai._internals import is_agent
from kvflow_pydantic_ai._observer import Observer

adapter = FrameworkAdapter(
    "Pydantic AI", Observer, _patches.find, takes="an agent of Pydantic AI", accepts=is_agent
)
