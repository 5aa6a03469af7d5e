"""Workflow-aware prefix caching for LLM agents: the core, which needs the standard library only."""

from kvflow_agents.app import App
from kvflow_agents.carrier import Call, Carrier
from kvflow_agents.errors import (
    ConfigurationError,
    HintError,
    IncompatibleServerError,
    KVFlowError,
)
from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint, agent_name
from kvflow_agents.instrumentation import Instrumentation, instrument, uninstrument
from kvflow_agents.keeper import keep_habits
from kvflow_agents.live_workflow import Workflow
from kvflow_agents.loops import agent, workflow
from kvflow_agents.reports import AgentReport, Report, report, reset_report
from kvflow_agents.simulation import Simulation
from kvflow_agents.step_graph import Join, Outlook, StepGraph

__version__ = "0.1.0"

__all__ = [
    "AgentReport",
    "App",
    "Call",
    "Carrier",
    "ConfigurationError",
    "Forecast",
    "Hint",
    "HintError",
    "IncompatibleServerError",
    "Instrumentation",
    "Join",
    "KVFlowError",
    "Outlook",
    "Report",
    "Simulation",
    "StepGraph",
    "Workflow",
    "__version__",
    "agent",
    "agent_name",
    "instrument",
    "keep_habits",
    "report",
    "reset_report",
    "uninstrument",
    "workflow",
]
