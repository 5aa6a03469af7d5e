"""A Pydantic AI application that says who calls next: agents in turn, at once, and in a tool.

    python demos/newsroom.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import kvflow_agents

app = typer.Typer(add_completion=False)


class Newsroom:
    """A reporter, who can ask the archive; two readers at once; an editor."""

    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        self._model = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
        self._archive = self._agent("archive", "Find what is asked for in the records.")
        self._reporter = self._agent("reporter", "Report in two sentences.")
        self._readers = [
            self._agent("fact checker", "Name what is doubtful."),
            self._agent("reader", "Say what you do not understand."),
        ]
        self._editor = self._agent("editor", "Improve the report by what was said of it.")
        self._reporter.tool_plain(name="search")(self._search)

    async def write(self, topic: str) -> str:
        """A report, as its editor lets it go."""
        report = (await self._reporter.run(topic)).output
        said = await asyncio.gather(*(reader.run(report) for reader in self._readers))
        remarks = "\n".join(each.output for each in said)
        return (await self._editor.run(f"{report}\n\n{remarks}")).output

    async def _search(self, question: str) -> str:
        """Search the records."""
        return (await self._archive.run(question)).output

    def _agent(self, name: str, duty: str) -> Agent[Any, str]:
        return Agent(self._model, name=name, instructions=f"You are the {name}. {duty}")


async def write(base_url: str, model: str, topics: list[str]) -> list[str]:
    """A report on each topic; each is one workflow, and the second is forecast by the first."""
    kvflow_agents.instrument(base_urls=[base_url])
    reports = []
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        newsroom = Newsroom(client, model)
        for topic in topics:
            with kvflow_agents.workflow(base_urls=[base_url]):
                reports.append(await newsroom.write(topic))
    kvflow_agents.uninstrument()
    return reports


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Write two reports, and print what became of each agent's calls."""
    topics = ["The lighthouse without a keeper.", "The ferry that is always late."]
    for report in asyncio.run(write(base_url, model, topics)):
        print(report)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
