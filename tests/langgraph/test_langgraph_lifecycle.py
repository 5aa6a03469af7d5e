"""On, off, for one app only, and not at all where LangGraph is not what we know."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph

import kvflow_langgraph
from kvflow_agents import ConfigurationError
from kvflow_agents.failsafe import Failsafe
from kvflow_langgraph import KVFlowCallbackHandler
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._internals import find_seams
from kvflow_langgraph._patches import find
from tests.adapter_contract import sdk_methods
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs


def methods() -> list[object]:
    seams = [seam for seam, _ in adapter.patches._find()]
    return [*(seam.owner.__dict__.get(seam.name) for seam in seams), *sdk_methods()]


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
    adapter.subscriptions.close_collected()
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
def test_a_handler_names_what_is_missing(missing: str, line: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import kvflow_langgraph, kvflow_agents\n"
        "try:\n"
        "    kvflow_langgraph.KVFlowCallbackHandler(base_urls=['http://localhost:1/v1'])\n"
        "except kvflow_agents.ConfigurationError as error:\n"
        "    print(error)\n"
    )
    assert line in in_a_new_process(code)


def test_arguments_that_a_version_names_in_another_way_reach_the_framework() -> None:
    def commit(runner: Any, task: Any, *, failure: Any) -> Any:
        return runner, task, failure

    failsafe = Failsafe("a run")
    patched = dict(find(adapter.observer, failsafe))[find_seams().commit](commit)
    assert patched("runner", "task", failure=None) == ("runner", "task", None)
    assert failsafe.errors == 1
