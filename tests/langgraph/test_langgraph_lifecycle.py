"""On, off, for one app only, and not at all where LangGraph is not what we know."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.pregel._loop import PregelLoop
from openai._base_client import AsyncAPIClient, SyncAPIClient

import kvflow_langgraph
from kvflow_agents import ConfigurationError
from kvflow_langgraph import KVFlowCallbackHandler
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._internals import find_seams
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs


def methods() -> list[Any]:
    seams = find_seams()
    ours = [getattr(seams, name) for name in seams.__slots__]
    return [
        *(seam.owner.__dict__.get(seam.name) for seam in ours),
        SyncAPIClient._prepare_options,
        AsyncAPIClient._prepare_options,
    ]


def test_uninstrument_restores_the_same_objects(server: FakeOpenAI) -> None:
    before = methods()
    for _ in range(2):
        kvflow_langgraph.instrument(base_urls=[server.base_url])
        kvflow_langgraph.instrument(base_urls=[server.base_url])
        assert not any(new is old for new, old in zip(methods(), before, strict=True) if old)
        kvflow_langgraph.uninstrument()
        kvflow_langgraph.uninstrument()
        assert all(new is old for new, old in zip(methods(), before, strict=True))


def test_other_servers_need_an_uninstrument_first(instrumented: FakeOpenAI) -> None:
    kvflow_langgraph.instrument()
    with pytest.raises(ConfigurationError, match="uninstrument"):
        kvflow_langgraph.instrument(base_urls=["http://elsewhere:1/v1"])


def test_without_a_server_to_hint_nothing_is_turned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("KVFLOW_BASE_URLS", raising=False)
    before = methods()
    for turn_on in (kvflow_langgraph.instrument, KVFlowCallbackHandler):
        with pytest.raises(ConfigurationError, match="KVFLOW_BASE_URLS"):
            turn_on()
    assert all(new is old for new, old in zip(methods(), before, strict=True))


def test_a_handler_marks_the_runs_that_carry_it(model: ChatOpenAI, server: FakeOpenAI) -> None:
    graph = graphs.nested(model)
    handler = KVFlowCallbackHandler(base_urls=[server.base_url])
    graph.invoke({"trail": []})
    assert server.agents == [None] * 5
    server.clear()
    graph.invoke({"trail": []}, {"callbacks": [handler]})
    assert server.agents == ["plan", "team/writer", "team/pair/x", "team/pair/y", "check"]


def test_a_handler_that_is_gone_leaves_nothing_behind(
    model: ChatOpenAI, server: FakeOpenAI
) -> None:
    before = methods()
    handler = KVFlowCallbackHandler(base_urls=[server.base_url])
    graphs.linear(model).invoke({"trail": []}, {"callbacks": [handler]})
    del handler
    gc.collect()
    assert all(new is old for new, old in zip(methods(), before, strict=True))


def test_a_wrapped_app_is_a_copy_of_its_type_and_alone_hinted(
    model: ChatOpenAI, server: FakeOpenAI
) -> None:
    graph = graphs.linear(model)
    wrapped = kvflow_langgraph.wrap(graph, base_urls=[server.base_url])
    assert wrapped is not graph
    assert type(wrapped) is type(graph)
    graph.invoke({"trail": []})
    assert server.agents == [None, None, None]
    server.clear()
    assert wrapped.invoke({"trail": []}) == graph.invoke({"trail": []})
    assert server.agents == ["a", "b", "c", None, None, None]


async def test_a_wrapped_app_is_hinted_however_it_is_run(
    model: ChatOpenAI, server: FakeOpenAI
) -> None:
    app = kvflow_langgraph.wrap(graphs.linear(model), base_urls=[server.base_url])
    config: Any = {"callbacks": [BaseCallbackHandler()], "configurable": {"thread_id": "t"}}
    app.invoke({"trail": []}, config)
    await app.ainvoke({"trail": []}, config)
    list(app.stream({"trail": []}, config))
    [chunk async for chunk in app.astream({"trail": []}, config)]
    [event async for event in app.astream_events({"trail": []}, config, version="v2")]
    app.batch([{"trail": []}], config)
    app.with_config(tags=["mine"]).invoke({"trail": []})
    assert server.agents == ["a", "b", "c"] * 7


def test_a_wrapped_app_inside_a_plain_one_is_hinted_alone(
    model: ChatOpenAI, server: FakeOpenAI
) -> None:
    inner = kvflow_langgraph.wrap(graphs.linear(model), base_urls=[server.base_url])
    graph = StateGraph(graphs.State)
    graph.add_node("before", graphs.agent(model, "before"))
    graph.add_node("inner", inner)
    graph.add_edge(START, "before")
    graph.add_edge("before", "inner")
    graph.compile().invoke({"trail": []}, {"callbacks": [BaseCallbackHandler()]})
    assert server.agents == [None, "a", "b", "c"]


def test_only_compiled_graphs_can_be_wrapped(model: ChatOpenAI, server: FakeOpenAI) -> None:
    with pytest.raises(ConfigurationError, match="compile it first"):
        kvflow_langgraph.wrap(StateGraph(graphs.State), base_urls=[server.base_url])


def break_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        """A loop class without the method that we patch."""

    seams = find_seams()
    monkeypatch.setattr(
        "kvflow_langgraph._patches.find_seams",
        lambda: type(seams)(
            **{name: getattr(seams, name) for name in seams.__slots__ if name != "tick"},
            tick=type(seams.tick)(Missing, "tick", ()),
        ),
    )


def test_an_unknown_langgraph_is_left_alone_with_one_warning(
    model: ChatOpenAI,
    server: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = methods()
    monkeypatch.setattr(adapter.patches, "_has_warned", False)
    break_tick(monkeypatch)
    with caplog.at_level(logging.WARNING, "kvflow_agents"):
        kvflow_langgraph.instrument(base_urls=[server.base_url])
        handler = KVFlowCallbackHandler(base_urls=[server.base_url])
        assert graphs.linear(model).invoke({"trail": []}, {"callbacks": [handler]})
    assert server.agents == [None, None, None]
    assert all(new is old for new, old in zip(methods(), before, strict=True))
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "Missing.tick is missing" in record.getMessage()
    kvflow_langgraph.uninstrument()


def test_another_signature_is_named() -> None:
    seam = find_seams().tick
    changed = type(seam)(PregelLoop, "tick", ("more",))
    assert changed.problem() == "PregelLoop.tick takes (), not ('more',)"


def test_our_own_error_does_not_reach_the_app(
    model: ChatOpenAI,
    instrumented: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("ours")

    failsafe = adapter.failsafe
    before = failsafe.errors
    for name in ("planned", "finished", "left", "caller"):
        monkeypatch.setattr(adapter.observer, name, fail)
    assert len(graphs.linear(model).invoke({"trail": []})["trail"]) == 3
    assert instrumented.agents == [None, None, None]
    assert failsafe.errors > before
    failsafe.errors = before


def in_a_new_process(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.strip()


def test_importing_the_adapter_imports_neither_langgraph_nor_openai() -> None:
    code = (
        "import sys, kvflow_langgraph\n"
        "print([m for m in ('langgraph', 'langchain_core', 'openai') if m in sys.modules])"
    )
    assert in_a_new_process(code) == "[]"


@pytest.mark.parametrize(
    ("missing", "line"),
    [("langgraph", "kvflow-agents[langgraph]"), ("openai", "pip install openai")],
)
@pytest.mark.parametrize("turn_on", ["instrument", "KVFlowCallbackHandler"])
def test_a_missing_package_is_named_with_what_installs_it(
    missing: str, line: str, turn_on: str
) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import kvflow_langgraph, kvflow_agents\n"
        "try:\n"
        f"    kvflow_langgraph.{turn_on}(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    assert line in in_a_new_process(code)
