"""Who calls, and that all who run now are known to before the first of them calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph

from tests.fake_openai import FakeOpenAI, ToolCall
from tests.langgraph import graphs, prebuilt

WIDTH = 8


def wide(model: ChatOpenAI) -> Any:
    graph = StateGraph(graphs.State)
    for number in range(WIDTH):
        graph.add_node(f"branch{number}", graphs.agent(model, f"branch{number}"))
        graph.add_edge(START, f"branch{number}")
    return graph.compile()


def assert_all_were_planned(server: FakeOpenAI) -> None:
    first = server.requests[0]
    assert first.steps == {f"branch{number}": 0 for number in range(WIDTH)}
    for request in server.requests:
        # Each node's prompt is its name.
        assert request.body["messages"][0]["content"] == request.agent


def test_the_first_request_of_a_superstep_knows_all_of_it(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    wide(model).invoke({"trail": []})
    assert_all_were_planned(instrumented)


async def test_the_first_async_request_of_a_superstep_knows_all_of_it(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    instrumented.delay_s = 0.05
    await wide(model).ainvoke({"trail": []})
    assert_all_were_planned(instrumented)


async def test_many_runs_at_once_are_told_apart(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    graph = graphs.nested(model)
    await asyncio.gather(*(graph.ainvoke({"trail": []}) for _ in range(10)))
    runs: dict[str | None, list[str | None]] = {}
    for request in instrumented.requests:
        runs.setdefault(request.workflow, []).append(request.agent)
    order = ["plan", "team/writer", "team/pair/x", "team/pair/y", "check"]
    assert list(runs.values()) == [order] * 10


def test_the_plain_sdk_is_known_inside_a_node(instrumented: FakeOpenAI) -> None:
    client = openai.OpenAI(base_url=instrumented.base_url, api_key="key")

    def call() -> None:
        client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}])

    def node(state: graphs.State) -> graphs.State:
        call()
        return {"trail": []}

    graph = StateGraph(graphs.State)
    graph.add_node("raw", node)
    graph.add_edge(START, "raw")
    graph.compile().invoke({"trail": []})
    call()
    assert instrumented.agents == ["raw", None]
    client.close()


def test_a_users_own_thread_is_nobody_and_works(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    answers: list[Any] = []

    def node(state: graphs.State) -> graphs.State:
        thread = threading.Thread(target=lambda: answers.append(model.invoke("thread").content))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            answers.append(pool.submit(model.invoke, "pool").result().content)
        return {"trail": [str(model.invoke("own").content)]}

    graph = StateGraph(graphs.State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.compile().invoke({"trail": []})
    assert answers == ["ok", "ok"]
    assert instrumented.agents == [None, None, "node"]


def test_a_router_that_calls_the_model_counts_as_its_node(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    def route(state: graphs.State) -> str:
        model.invoke("where?")
        return "b"

    graph = StateGraph(graphs.State)
    graph.add_node("a", graphs.agent(model, "a"))
    graph.add_node("b", graphs.agent(model, "b"))
    graph.add_edge(START, "a")
    graph.add_conditional_edges("a", route, ["b"])
    graph.compile().invoke({"trail": []})
    assert instrumented.agents == ["a", "a", "b"]


def test_a_node_that_holds_a_graph_and_calls_the_model_is_both(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    inner = graphs.linear(model)

    def work(state: graphs.State) -> graphs.State:
        inner.invoke({"trail": []})
        return {"trail": [str(model.invoke("sum up").content)]}

    graph = StateGraph(graphs.State)
    graph.add_node("work", work)
    graph.add_node("check", graphs.agent(model, "check"))
    graph.add_edge(START, "work")
    graph.add_edge("work", "check")
    app = graph.compile()
    for _ in range(2):
        instrumented.clear()
        app.invoke({"trail": []})
    assert instrumented.agents == ["work/a", "work/b", "work/c", "work", "check"]
    assert [request.steps["work"] for request in instrumented.requests[3:]] == [0, None]
    # The graph in the closure is known before anything ran.
    assert instrumented.requests[0].steps["check"] == 3


def test_graphs_on_threads_of_their_own_belong_to_the_run_around_them(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    from langgraph.checkpoint.memory import MemorySaver

    inner = graphs.linear(model)
    inner.checkpointer = MemorySaver()

    def work(state: graphs.State) -> graphs.State:
        inner.invoke({"trail": []}, {"configurable": {"thread_id": "inner"}})
        return {"trail": []}

    graph = StateGraph(graphs.State)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    graph.compile(checkpointer=MemorySaver()).invoke(
        {"trail": []}, {"configurable": {"thread_id": "outer"}}
    )
    assert instrumented.agents == ["work/a", "work/b", "work/c"]
    [name] = {request.workflow for request in instrumented.requests}
    assert name is not None and name.startswith("outer@")


def test_sub_agents_that_share_a_node_are_told_apart(
    model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    pytest.importorskip("deepagents")
    agent = prebuilt.deep(model)
    for _ in range(2):
        instrumented.clear()
        prebuilt.script_deep(instrumented)
        agent.invoke({"messages": [{"role": "user", "content": "hi"}]})
    reader, critic = "tools/reader/model", "tools/critic/model"
    assert instrumented.agents == ["model", reader, reader, "model", critic, critic, "model"]
    for request in instrumented.requests:
        # Both may be asked again, whoever is at work.
        assert request.steps[reader] is not None
        assert request.steps[critic] is not None


@pytest.mark.skipif(
    metadata.version("langchain").startswith("1.0."), reason="langchain 1.0 names no agents"
)
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "astream"])
async def test_an_agent_that_a_tool_runs_belongs_to_the_tool_node(
    way: str, model: ChatOpenAI, instrumented: FakeOpenAI
) -> None:
    from langchain.agents import create_agent

    expert = create_agent(model, [], name="expert", system_prompt="EXPERT")

    def ask_expert(question: str) -> str:
        """Ask."""
        asked: Any = {"messages": question}
        return str(expert.invoke(asked)["messages"][-1].content)

    instrumented.script("LEAD", ToolCall("ask_expert", {"question": "why?"}), "because")
    lead = create_agent(model, [ask_expert], system_prompt="LEAD")
    asked: Any = {"messages": [{"role": "user", "content": "hi"}]}
    if way == "invoke":
        await asyncio.to_thread(lead.invoke, asked)
    elif way == "ainvoke":
        await lead.ainvoke(asked)
    else:
        async for _ in lead.astream(asked, stream_mode="messages"):
            pass
    assert instrumented.agents == ["model", "tools/expert/model", "model"]
    assert bool(instrumented.requests[0].body.get("stream")) == (way == "astream")
    assert len({request.workflow for request in instrumented.requests}) == 1
