"""Small applications, one for every way to draw a graph."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

Graph = Any


class State(TypedDict, total=False):
    trail: Annotated[list[str], operator.add]


def agent(model: ChatOpenAI, name: str) -> RunnableLambda[State, State]:
    """A node that calls the model once, by `invoke` or `ainvoke` as the graph is run."""

    def call(state: State) -> State:
        return {"trail": [f"{name}: {model.invoke(name).content}"]}

    async def acall(state: State) -> State:
        return {"trail": [f"{name}: {(await model.ainvoke(name)).content}"]}

    return RunnableLambda(call, acall, name=name)


def _with_agents(model: ChatOpenAI, *names: str) -> StateGraph[State]:
    graph = StateGraph(State)
    for name in names:
        graph.add_node(name, agent(model, name))
    return graph


def linear(model: ChatOpenAI) -> Graph:
    graph = _with_agents(model, "a", "b", "c")
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    graph.add_edge("c", END)
    return graph.compile()


def diamond(model: ChatOpenAI) -> Graph:
    """`d` waits for both branches, one of which is longer."""
    graph = _with_agents(model, "a", "b", "c", "c2", "d")
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("a", "c")
    graph.add_edge("c", "c2")
    graph.add_edge(["b", "c2"], "d")
    graph.add_edge("d", END)
    return graph.compile()


def conditional(model: ChatOpenAI) -> Graph:
    graph = _with_agents(model, "a", "b", "c")
    graph.add_edge(START, "a")
    graph.add_conditional_edges("a", lambda state: "left", {"left": "b", "right": "c"})
    graph.add_edge("b", END)
    graph.add_edge("c", END)
    return graph.compile()


def untyped_branch(model: ChatOpenAI) -> Graph:
    """Nothing says where the branch of `a` leads."""
    graph = _with_agents(model, "a", "b", "c")
    graph.add_edge(START, "a")
    graph.add_conditional_edges("a", lambda state: "b")
    graph.add_edge("b", "c")
    graph.add_edge("c", END)
    return graph.compile()


def loop(model: ChatOpenAI) -> Graph:
    def again(state: State) -> Literal["write", "__end__"]:
        return "write" if len(state["trail"]) < 4 else "__end__"

    graph = _with_agents(model, "write", "review")
    graph.add_edge(START, "write")
    graph.add_edge("write", "review")
    graph.add_conditional_edges("review", again)
    return graph.compile()


def self_edge(model: ChatOpenAI) -> Graph:
    def again(state: State) -> Literal["a", "b"]:
        return "a" if len(state["trail"]) < 2 else "b"

    graph = _with_agents(model, "a", "b")
    graph.add_edge(START, "a")
    graph.add_conditional_edges("a", again)
    graph.add_edge("b", END)
    return graph.compile()


def map_reduce(model: ChatOpenAI) -> Graph:
    def fan_out(state: State) -> list[Send]:
        return [Send("worker", {}) for _ in range(3)]

    graph = _with_agents(model, "split", "worker", "join")
    graph.add_edge(START, "split")
    graph.add_conditional_edges("split", fan_out, ["worker"])
    graph.add_edge("worker", "join")
    graph.add_edge("join", END)
    return graph.compile()


def command(model: ChatOpenAI) -> Graph:
    def route(state: State) -> Command[Literal["b", "c"]]:
        return Command(goto="c", update={"trail": [str(model.invoke("a").content)]})

    graph = _with_agents(model, "b", "c")
    graph.add_node("a", route)
    graph.add_edge(START, "a")
    graph.add_edge("b", "c")
    graph.add_edge("c", END)
    return graph.compile()


def nested(model: ChatOpenAI) -> Graph:
    """A team, which is a graph with a team of its own."""
    pair = _with_agents(model, "x", "y")
    pair.add_edge(START, "x")
    pair.add_edge("x", "y")
    pair.add_edge("y", END)
    team = _with_agents(model, "writer")
    team.add_node("pair", pair.compile())
    team.add_edge(START, "writer")
    team.add_edge("writer", "pair")
    team.add_edge("pair", END)
    graph = _with_agents(model, "plan", "check")
    graph.add_node("team", team.compile())
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "team")
    graph.add_edge("team", "check")
    graph.add_edge("check", END)
    return graph.compile()


def nested_in_code(model: ChatOpenAI) -> Graph:
    """A node whose code makes a graph and runs it twice: no structure shows it."""

    def work(state: State) -> State:
        for _ in range(2):
            inner = _with_agents(model, "x", "y")
            inner.add_edge(START, "x")
            inner.add_edge("x", "y")
            inner.add_edge("y", END)
            inner.compile().invoke({"trail": []})
        return {"trail": [str(model.invoke("work").content)]}

    graph = _with_agents(model, "plan", "check")
    graph.add_node("work", work)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "work")
    graph.add_edge("work", "check")
    graph.add_edge("check", END)
    return graph.compile()


def fan_out_of_teams(model: ChatOpenAI) -> Graph:
    """Three runs of one subgraph at once, of different lengths."""

    def again(state: State) -> Literal["x", "y"]:
        return "x" if len(state["trail"]) < int(state["trail"][0]) else "y"

    team = _with_agents(model, "x", "y")
    team.add_edge(START, "x")
    team.add_conditional_edges("x", again)
    team.add_edge("y", END)

    def fan_out(state: State) -> list[Send]:
        return [Send("team", {"trail": [length]}) for length in ("1", "3", "4")]

    graph = _with_agents(model, "join")
    graph.add_node("team", team.compile())
    graph.add_conditional_edges(START, fan_out, ["team"])
    graph.add_edge("team", "join")
    graph.add_edge("join", END)
    return graph.compile()


def functional(model: ChatOpenAI) -> Graph:
    @task
    def draft(topic: str) -> str:
        return str(model.invoke(f"draft {topic}").content)

    @task
    def review(text: str) -> str:
        return str(model.invoke(f"review {text}").content)

    @entrypoint()
    def essay(topic: str) -> str:
        return review(draft(topic).result()).result()

    return essay
