"""A LlamaIndex application that says who calls next: agents that hand over to one another.

    python demos/desk.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.llms.openai_like import OpenAILike

import kvflow_agents
import kvflow_llama_index

app = typer.Typer(add_completion=False)


def desk(base_url: str, model: str) -> AgentWorkflow:
    """A reporter, who hands over to a writer, who hands over to an editor or back."""
    llm = OpenAILike(
        model=model,
        api_base=base_url,
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
    )

    def agent(name: str, duty: str, *followers: str) -> FunctionAgent:
        return FunctionAgent(
            name=name,
            description=duty,
            system_prompt=f"You are the {name}. {duty}",
            can_handoff_to=list(followers),
            llm=llm,
        )

    return AgentWorkflow(
        agents=[
            agent("reporter", "Collect three facts, then hand over to the writer.", "writer"),
            agent("writer", "Write a paragraph, then hand over.", "editor", "reporter"),
            agent("editor", "Shorten the paragraph to one sentence."),
        ],
        root_agent="reporter",
    )


async def write(base_url: str, model: str, subjects: list[str]) -> list[str]:
    """One sentence on each subject."""
    team = kvflow_llama_index.wrap(desk(base_url, model), base_urls=[base_url])  # the one line
    return [str(await team.run(user_msg=f"Write about {subject}.")) for subject in subjects]


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Write about two subjects, and print what became of each agent's calls."""
    for sentence in asyncio.run(write(base_url, model, ["lighthouses", "ferries"])):
        print(sentence)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
