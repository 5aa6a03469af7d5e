"""Workflow-aware prefix caching for LLM agents."""

__version__ = "0.1.0"
