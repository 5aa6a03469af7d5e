"""A CrewAI application that says who calls next: two tasks at once, and one that waits for both.

    python demos/gazette.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

from typing import Annotated

import typer
from crewai import LLM, Agent, Crew, Task

import kvflow_agents
import kvflow_crewai

app = typer.Typer(add_completion=False)


def gazette(base_url: str, model: str) -> Crew:
    """A reporter, then a writer and a painter at once, then an editor."""
    llm = LLM(model=f"openai/{model}", base_url=base_url, api_key="none")

    def agent(role: str) -> Agent:
        return Agent(role=role, goal="Make the gazette.", backstory=f"A {role}.", llm=llm)

    def task(agent: Agent, what: str, *needed: Task, beside: bool = False) -> Task:
        return Task(
            description=what,
            expected_output="one sentence",
            agent=agent,
            context=list(needed),
            async_execution=beside,
        )

    reporter, writer, painter, editor = map(agent, ("reporter", "writer", "painter", "editor"))
    news = task(reporter, "Report on {subject}.")
    text = task(writer, "Write the article.", news, beside=True)
    picture = task(painter, "Describe a picture for it.", news, beside=True)
    page = task(editor, "Put both together.", text, picture)
    return Crew(agents=[reporter, writer, painter, editor], tasks=[news, text, picture, page])


def publish(base_url: str, model: str, subjects: list[str]) -> list[str]:
    """A page on each subject."""
    crew = kvflow_crewai.wrap(gazette(base_url, model), base_urls=[base_url])  # the one line
    return [str(crew.kickoff(inputs={"subject": subject})) for subject in subjects]


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Publish two pages, and print what became of each agent's calls."""
    for page in publish(base_url, model, ["lighthouses", "ferries"]):
        print(page)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
