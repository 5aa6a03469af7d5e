"""An OpenAI Agents SDK application that says who calls next: handoffs, a tool agent, a trace.

    python demos/triage.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from agents import Agent, OpenAIChatCompletionsModel, Runner, trace
from openai import AsyncOpenAI

import kvflow_agents
import kvflow_openai_agents

app = typer.Typer(add_completion=False)


def team(client: AsyncOpenAI, model: str) -> Agent:
    """Whoever asks is met by `triage`, who hands over to one who knows."""

    def agent(name: str, duty: str) -> Agent:
        chat = OpenAIChatCompletionsModel(model=model, openai_client=client)
        return Agent(name, instructions=f"You are {name}. {duty}", model=chat)

    archive = agent("archive", "Find what is asked for in the records.")
    history = agent("history", "Answer questions about the past in one sentence.")
    history.tools.append(archive.as_tool("search", "Search the records."))
    travel = agent("travel", "Answer questions about journeys in one sentence.")
    triage = agent("triage", "Hand every question over to the colleague who knows.")
    triage.handoffs += [history, travel]
    return triage


async def ask(base_url: str, model: str, questions: list[str]) -> list[str]:
    """The answers to some questions, all of them one workflow."""
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        first = kvflow_openai_agents.wrap(team(client, model), base_urls=[base_url])
        with trace("questions"):
            return [str((await Runner.run(first, each)).final_output) for each in questions]


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Ask two questions, and print what became of each agent's calls."""
    questions = ["Why did lighthouses lose their keepers?", "How long is the ferry to the island?"]
    for answer in asyncio.run(ask(base_url, model, questions)):
        print(answer)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
