"""A Google ADK application that says who calls next: a sequence with two agents at once in it.

    python demos/tour.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from google.adk.agents import LlmAgent, ParallelAgent, SequentialAgent
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types

import kvflow_agents
import kvflow_google_adk

app = typer.Typer(add_completion=False)


def guides(base_url: str, model: str) -> SequentialAgent:
    """A planner, then two who know something each, then an editor."""

    def agent(name: str, duty: str) -> LlmAgent:
        chat = LiteLlm(f"openai/{model}", api_base=base_url, api_key="none")
        return LlmAgent(name=name, instruction=f"You are the {name}. {duty}", model=chat)

    planner = agent("planner", "Name three places of the city.")
    museums = agent("museums", "Name one museum near these places.")
    food = agent("food", "Name one dish to eat near these places.")
    editor = agent("editor", "Write the day's plan in two sentences.")
    both = ParallelAgent(name="experts", sub_agents=[museums, food])
    return SequentialAgent(name="guides", sub_agents=[planner, both, editor])


async def plan(base_url: str, model: str, cities: list[str]) -> list[str]:
    """A day's plan for each city, each in a session of its own."""
    runner = InMemoryRunner(guides(base_url, model), app_name="tour")
    kvflow_google_adk.wrap(runner, base_urls=[base_url])  # the one line
    plans = [await _plan(runner, city) for city in cities]
    await runner.close()
    return plans


async def _plan(runner: InMemoryRunner, city: str) -> str:
    session = await runner.session_service.create_session(app_name="tour", user_id="me")
    message = types.Content(role="user", parts=[types.Part(text=f"A day in {city}.")])
    last = ""
    async for event in runner.run_async(user_id="me", session_id=session.id, new_message=message):
        last = "".join(part.text or "" for part in (event.content and event.content.parts) or [])
    return last


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Plan a day in two cities, and print what became of each agent's calls."""
    for text in asyncio.run(plan(base_url, model, ["Lisbon", "Lyon"])):
        print(text)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
