"""The adapter's two halves put together: what LlamaIndex tells, and who wants to know."""

from __future__ import annotations

from kvflow_agents.framework import FrameworkAdapter
from kvflow_llama_index import _patches
from kvflow_llama_index._internals import is_workflow
from kvflow_llama_index._observer import Observer

adapter = FrameworkAdapter(
    "LlamaIndex",
    Observer,
    _patches.find,
    takes="an agent or a workflow of LlamaIndex",
    accepts=is_workflow,
)
