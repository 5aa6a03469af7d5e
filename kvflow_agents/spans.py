"""Which agent makes a call, on the OpenTelemetry span that it is made in (docs/report.md)."""

from __future__ import annotations

import sys
from typing import Any

from kvflow_agents.hints import Hint

# The GenAI semantic conventions' names; whoever has set them knows better.
AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"
# Beyond them a span would carry whole teams.
MOST_NEXT_AGENTS = 16


def mark_span(hint: Hint) -> None:
    """Say on the current span who calls and who is next, if one is recording.

    An application without OpenTelemetry has no span, so nothing is imported for it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    span = trace.get_current_span()
    if not span.is_recording():
        return
    present = getattr(span, "attributes", None) or {}
    named = {AGENT_NAME: hint.agent, CONVERSATION_ID: hint.workflow}
    span.set_attributes({k: v for k, v in named.items() if k not in present} | _ours(hint))


def _ours(hint: Hint) -> dict[str, Any]:
    next_agents = [agent for agent, steps in hint.forecast.steps.items() if steps == 1]
    said: dict[str, Any] = {
        "kvflow.workflow": hint.workflow,
        "kvflow.agent": hint.agent,
        "kvflow.app": hint.app,
        "kvflow.seq": hint.forecast.seq,
        "kvflow.next_agents": next_agents[:MOST_NEXT_AGENTS],
    }
    return {name: value for name, value in said.items() if value is not None}
