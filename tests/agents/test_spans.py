"""Who calls, on OpenTelemetry's own spans."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kvflow_agents import Call, Carrier, Forecast, Hint
from kvflow_agents.spans import MOST_NEXT_AGENTS, mark_span
from tests.agents.fake_server import FakeServer

HINT = Hint("run", Forecast(3, {"writer": 0, "editor": 1, "critic": 1, "planner": None}), "writer")


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    assert isinstance(tracer, Tracer)
    return tracer


def attributes(spans: InMemorySpanExporter) -> Mapping[str, object]:
    (span,) = spans.get_finished_spans()
    return dict(span.attributes or {})


class Told:
    def hint(self, agent: str) -> Hint:
        return HINT


def test_a_call_names_its_agent_on_the_span(
    server: FakeServer, tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    carrier = Carrier(lambda: Call(Told(), "writer"), [server.base_url])
    carrier.install()
    with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
        with tracer.start_as_current_span("chat"):
            client.completions.create(model="m", prompt="hello")
    carrier.uninstall()
    assert attributes(spans) == {
        "gen_ai.agent.name": "writer",
        "gen_ai.conversation.id": "run",
        "kvflow.workflow": "run",
        "kvflow.agent": "writer",
        "kvflow.seq": 3,
        "kvflow.next_agents": ("editor", "critic"),
    }


def test_what_the_application_has_said_stays(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    theirs = {"gen_ai.agent.name": "theirs", "gen_ai.conversation.id": "thread"}
    with tracer.start_as_current_span("chat", attributes=theirs):
        mark_span(HINT)
    assert theirs.items() <= attributes(spans).items()
    assert attributes(spans)["kvflow.agent"] == "writer"


def test_a_span_names_some_of_many_agents(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("chat"):
        mark_span(Hint("run", Forecast(0, {str(number): 1 for number in range(100)}), "x"))
    named = attributes(spans)["kvflow.next_agents"]
    assert isinstance(named, tuple) and len(named) == MOST_NEXT_AGENTS


def test_without_a_recording_span_nothing_is_said(spans: InMemorySpanExporter) -> None:
    mark_span(HINT)
    assert not trace.get_current_span().is_recording()
    assert spans.get_finished_spans() == ()


def test_opentelemetry_is_not_imported_for_an_application_without() -> None:
    code = (
        "import sys; from kvflow_agents import Hint, Forecast; from kvflow_agents.spans import "
        "mark_span; mark_span(Hint('run', Forecast(0, {}), 'a')); "
        "sys.exit('opentelemetry' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
