"""Runs as workflows: their names, their ends, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph

from kvflow_agents.hints import Hint
from kvflow_langgraph._adapter import adapter
from kvflow_langgraph._structure import structure_of
from tests.adapter_fixtures import deliver
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs


def on_thread(thread: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}}


def ends(server: FakeOpenAI) -> list[Hint]:
    deliver(adapter)
    return server.forecasts


def is_empty() -> bool:
    """Whether the observer remembers no run, loop or task."""
    observer = adapter.observer
    gc.collect()
    return not observer._scopes and not observer._tasks and not observer._runs._live


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert is_empty()


def test_a_run_that_is_over_is_done(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    graphs.linear(model).invoke({"trail": []})
    [end] = ends(instrumented)
    assert end.forecast.done
    assert end.workflow == instrumented.requests[-1].workflow
    last = instrumented.requests[-1].hint
    assert last and end.forecast.seq > last.forecast.seq


def test_threads_of_one_name_in_two_graphs_are_two_workflows(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    for graph in (graphs.linear(model), graphs.nested(model)):
        graph.checkpointer = MemorySaver()
        for _ in range(2):
            graph.invoke({"trail": []}, on_thread("1"))
    names = {str(request.workflow) for request in instrumented.requests}
    assert len(names) == 2
    assert {name.partition("@")[0] for name in names} == {"1"}


def test_a_thread_may_go_on_so_nobody_is_expected_for_now(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    graph = graphs.linear(model)
    graph.checkpointer = MemorySaver()
    for _ in range(2):
        graph.invoke({"trail": []}, on_thread("talk"))
    first, second = ends(instrumented)
    assert not first.forecast.done
    assert first.forecast.steps == dict.fromkeys("abc")
    [name] = {request.workflow for request in instrumented.requests}
    assert name is not None and name.startswith("talk@")
    hints = [request.hint.forecast.seq for request in instrumented.requests if request.hint]
    assert hints == sorted(set(hints))
    assert hints[2] < first.forecast.seq < hints[3]


@pytest.mark.parametrize("thread", ["x" * 200, "line\nbreak", "\ud800", "nul\x00", 7, "snö"])
def test_any_thread_id_makes_a_name_that_servers_accept(
    thread: Any, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    for _ in range(2):
        graphs.linear(model).invoke({"trail": []}, on_thread(thread))
    # The fake server refuses malformed hints.
    assert len({request.workflow for request in instrumented.requests}) == 1
    assert instrumented.agents == ["a", "b", "c"] * 2


def test_two_runs_at_once_on_one_thread_have_names_of_their_own(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.1
    graph = graphs.linear(model)
    threads = [
        threading.Thread(target=graph.invoke, args=({"trail": []}, on_thread("same")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs: dict[str | None, list[dict[str, int | None]]] = {}
    for request in instrumented.requests:
        runs.setdefault(request.workflow, []).append(dict(request.steps))
    expected = [
        {"a": 0, "b": 1, "c": 2},
        {"a": None, "b": 0, "c": 1},
        {"a": None, "b": None, "c": 0},
    ]
    assert any(name and name.startswith("same@") and "#" not in name for name in runs)
    assert list(runs.values()) == [expected, expected]


def test_a_run_that_fails_is_over(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    def fail(state: graphs.State) -> graphs.State:
        raise LookupError

    graph = StateGraph(graphs.State)
    graph.add_node("a", graphs.agent(model, "a"))
    graph.add_node("fail", fail)
    graph.add_edge(START, "a")
    graph.add_edge("a", "fail")
    with pytest.raises(LookupError):
        graph.compile().invoke({"trail": []})
    assert [end.forecast.done for end in ends(instrumented)] == [True]


def test_a_command_to_a_node_that_does_not_exist_ends_as_without_us(
    model: ChatOpenAI, server: FakeOpenAI
) -> None:
    from langgraph.types import Command

    def route(state: graphs.State) -> Any:
        return Command(goto="nobody", update={"trail": [str(model.invoke("a").content)]})

    graph = StateGraph(graphs.State)
    graph.add_node("a", route)
    graph.add_edge(START, "a")
    app = graph.compile()
    plain = app.invoke({"trail": []})
    server.clear()
    adapter.subscriptions.subscribe_process([server.base_url])
    assert app.invoke({"trail": []}) == plain
    adapter.subscriptions.unsubscribe_process()
    assert server.agents == ["a"]
    assert [end.forecast.done for end in ends(server)] == [True]


def test_a_stream_that_is_left_alone_is_over(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    stream = graphs.nested(model).stream({"trail": []}, subgraphs=True)
    next(stream)
    stream.close()
    assert [end.forecast.done for end in ends(instrumented)] == [True]


async def test_an_async_stream_that_is_left_alone_is_over(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    stream = graphs.linear(model).astream({"trail": []})
    async for _ in stream:
        break
    await stream.aclose()
    assert [end.forecast.done for end in ends(instrumented)] == [True]


async def test_a_cancelled_run_is_over(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    instrumented.delay_s = 0.5
    run = asyncio.create_task(graphs.nested(model).ainvoke({"trail": []}))
    while not instrumented.requests:
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [end.forecast.done for end in ends(instrumented)] == [True]


def test_an_interrupt_ends_the_run_for_now(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    graph = graphs.linear(model)
    graph.checkpointer = MemorySaver()
    graph.interrupt_before_nodes = ["b"]
    graph.invoke({"trail": []}, on_thread("t"))
    [end] = ends(instrumented)
    assert end.forecast.steps == {"a": None}
    graph.invoke(None, on_thread("t"))
    assert instrumented.agents == ["a", "b", "c"]
    # A resumed run starts in the middle; that teaches nothing about where runs start.
    assert instrumented.requests[-1].steps == {"b": None, "c": 0}


def test_an_app_that_is_compiled_for_every_run_goes_on_learning(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    for _ in range(2):
        instrumented.clear()
        graphs.untyped_branch(model).invoke({"trail": []})
    assert instrumented.requests[0].steps == {"a": 0, "b": 1, "c": 2}


def test_an_untyped_branch_is_learned_on_the_second_run(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    graph = graphs.untyped_branch(model)
    graph.invoke({"trail": []})
    graph.invoke({"trail": []})
    first, second = instrumented.requests[0], instrumented.requests[3]
    assert first.steps == {"a": 0, "b": 1, "c": 1}
    assert second.steps == {"a": 0, "b": 1, "c": 2}


def test_a_command_that_is_not_declared_is_learned(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    from langgraph.types import Command

    def route(state: graphs.State) -> Any:
        return Command(goto="b", update={"trail": [str(model.invoke("a").content)]})

    graph = StateGraph(graphs.State)
    graph.add_node("a", route)
    graph.add_node("b", graphs.agent(model, "b"))
    graph.add_edge(START, "a")
    app = graph.compile()
    for _ in range(2):
        instrumented.clear()
        app.invoke({"trail": []})
    assert instrumented.requests[0].steps == {"a": 0, "b": 1}


def test_a_huge_graph_is_read_in_linear_time_and_hinted_in_part(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    graph = StateGraph(graphs.State)
    nodes = [f"node{number:04}" for number in range(6000)]
    worker = graphs.agent(model, "x")
    idle: Any = lambda state: {"trail": []}  # noqa: E731
    for name in nodes:
        graph.add_node(name, worker if name == nodes[0] else idle)
    graph.add_edge(START, nodes[0])
    for before, after in zip(nodes, nodes[1:], strict=False):
        graph.add_edge(before, after)
    app = graph.compile()
    assert len(structure_of(app).agents) == 6000
    # The run is cut short: what counts is its first hint.
    next(app.stream({"trail": []}, stream_mode="updates"))
    [request] = instrumented.requests
    assert len(request.steps) == 4096
    assert request.steps["node4095"] == 4095


def test_runs_leave_nothing_behind(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    graph = graphs.nested(model)
    for _ in range(5):
        graph.invoke({"trail": []})
    assert is_empty()
