"""An app does the same with the adapter as without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt

import kvflow_langgraph
from tests.fake_openai import FakeOpenAI
from tests.langgraph import graphs

MODES = ["values", "updates", "custom", "messages", "debug", "tasks", "checkpoints"]
# What differs from run to run anyway.
VOLATILE = ("id", "timestamp", "checkpoint", "ns", "run_id", "ts", "created")

build_cases = pytest.mark.parametrize(
    "build", [graphs.linear, graphs.loop, graphs.command, graphs.nested, graphs.self_edge]
)


@contextmanager
def on(server: FakeOpenAI) -> Iterator[None]:
    kvflow_langgraph.instrument(base_urls=[server.base_url])
    yield
    kvflow_langgraph.uninstrument()


def stable(value: Any) -> Any:
    """A chunk without ids and times."""
    if isinstance(value, dict):
        return {
            key: stable(entry)
            for key, entry in value.items()
            if not any(word in str(key) for word in VOLATILE)
        }
    if isinstance(value, (list, tuple)):
        return [stable(entry) for entry in value]
    if hasattr(value, "content"):
        return value.content
    return str(value).split(":")[0]


def config(thread: str = "t") -> RunnableConfig:
    return {"configurable": {"thread_id": thread}}


@build_cases
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subgraphs", [False, True])
def test_every_stream_mode_gives_the_same_chunks(
    build: Any, mode: str, subgraphs: bool, model: ChatOpenAI, server: FakeOpenAI
) -> None:
    def chunks() -> list[Any]:
        graph = build(model)
        graph.checkpointer = MemorySaver()
        return [
            stable(chunk)
            for chunk in graph.stream(
                {"trail": []}, config(), stream_mode=mode, subgraphs=subgraphs
            )
        ]

    plain = chunks()
    with on(server):
        assert chunks() == plain


@build_cases
async def test_async_runs_give_the_same(build: Any, model: ChatOpenAI, server: FakeOpenAI) -> None:
    async def outputs() -> list[Any]:
        graph = build(model)
        batch = await graph.abatch([{"trail": []}, {"trail": []}])
        streamed = [stable(chunk) async for chunk in graph.astream({"trail": []})]
        events = [
            (event["event"], event["name"])
            async for event in graph.astream_events({"trail": []}, version="v2")
        ]
        return [await graph.ainvoke({"trail": []}), batch, streamed, events]

    if build is graphs.command:
        pytest.skip("its node calls the model synchronously")
    plain = await outputs()
    with on(server):
        assert await outputs() == plain


def test_a_batch_gives_the_same(model: ChatOpenAI, server: FakeOpenAI) -> None:
    graph = graphs.nested(model)
    inputs = [{"trail": [str(number)]} for number in range(4)]
    plain = graph.batch(inputs)
    with on(server):
        assert graph.batch(inputs) == plain


def test_checkpoints_and_history_are_the_same(model: ChatOpenAI, server: FakeOpenAI) -> None:
    def history() -> list[Any]:
        graph = graphs.linear(model)
        graph.checkpointer = MemorySaver()
        graph.invoke({"trail": []}, config())
        return [
            (state.values, state.next, state.metadata)
            for state in graph.get_state_history(config())
        ]

    plain = history()
    with on(server):
        assert history() == plain


def test_an_interrupted_run_is_resumed(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    def ask(state: graphs.State) -> graphs.State:
        return {"trail": [interrupt("sure?"), str(model.invoke("ask").content)]}

    graph = StateGraph(graphs.State)
    graph.add_node("write", graphs.agent(model, "write"))
    graph.add_node("ask", ask)
    graph.add_edge(START, "write")
    graph.add_edge("write", "ask")
    app = graph.compile(checkpointer=MemorySaver())

    app.invoke({"trail": []}, config())
    assert app.get_state(config()).next == ("ask",)
    result = app.invoke(Command(resume="yes"), config())

    assert result["trail"] == ["write: ok", "yes", "ok"]
    assert instrumented.agents == ["write", "ask"]
    [name] = {request.workflow for request in instrumented.requests}
    assert name is not None and name.startswith("t@")
    first, second = (request.hint for request in instrumented.requests)
    assert first and second and first.forecast.seq < second.forecast.seq


def test_a_node_that_fails_is_retried_under_its_name(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    attempts: list[int] = []

    def flaky(state: graphs.State) -> graphs.State:
        model.invoke("flaky")
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError
        return {"trail": ["done"]}

    graph = StateGraph(graphs.State)
    policy = RetryPolicy(initial_interval=0.01, jitter=False)
    graph.add_node("flaky", flaky, retry_policy=policy)
    graph.add_edge(START, "flaky")
    assert graph.compile().invoke({"trail": []}) == {"trail": ["done"]}
    assert instrumented.agents == ["flaky", "flaky"]


def test_an_error_in_a_node_reaches_the_caller(model: ChatOpenAI, instrumented: FakeOpenAI) -> None:
    def fail(state: graphs.State) -> graphs.State:
        raise LookupError("mine")

    graph = StateGraph(graphs.State)
    graph.add_node("fail", fail)
    graph.add_edge(START, "fail")
    with pytest.raises(LookupError, match="mine"):
        graph.compile().invoke({"trail": []})


def test_a_server_that_dies_in_a_run_fails_the_call_and_nothing_else(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    import openai

    def stop(state: graphs.State) -> graphs.State:
        instrumented.stop()
        return {"trail": []}

    graph = StateGraph(graphs.State)
    graph.add_node("a", graphs.agent(model, "a"))
    graph.add_node("stop", stop)
    graph.add_node("b", graphs.agent(model, "b"))
    graph.add_edge(START, "a")
    graph.add_edge("a", "stop")
    graph.add_edge("stop", "b")
    with pytest.raises(openai.APIConnectionError):
        graph.compile().invoke({"trail": []})
