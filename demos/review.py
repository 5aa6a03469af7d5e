"""A Microsoft Agent Framework workflow that says who calls next: a fan-out, a join, an editor.

    python demos/review.py http://localhost:30000/v1 default

runs against any OpenAI-compatible server; one without kvflow ignores what it is told.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from agent_framework import (
    Agent,
    AgentExecutorResponse,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
)
from agent_framework_openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI

import kvflow_agent_framework
import kvflow_agents

app = typer.Typer(add_completion=False)


class Remarks(Executor):
    """Puts what the reviewers have said together."""

    @handler
    async def collect(
        self, answers: list[AgentExecutorResponse], context: WorkflowContext[str]
    ) -> None:
        """Pass all of it on."""
        said = [f"{each.executor_id}: {each.agent_response.text}" for each in answers]
        await context.send_message("\n".join(said))


def review(client: AsyncOpenAI, model: str) -> Workflow:
    """An author's text goes to two reviewers at once, and with what they say to an editor."""
    chat: Any = OpenAIChatCompletionClient(model=model, async_client=client)

    def agent(name: str, duty: str) -> Agent[Any]:
        return Agent(chat, f"You are the {name}. {duty}", name=name)

    author = agent("author", "Answer in two sentences.")
    reviewers = [agent("critic", "Find a mistake."), agent("reader", "Say what is unclear.")]
    editor, remarks = agent("editor", "Improve the answer."), Remarks(id="remarks")
    builder = WorkflowBuilder(start_executor=author).add_fan_out_edges(author, reviewers)
    return builder.add_fan_in_edges(reviewers, remarks).add_edge(remarks, editor).build()


async def ask(base_url: str, model: str, question: str) -> list[str]:
    """What the workflow's agents say to a question."""
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        flow = kvflow_agent_framework.wrap(review(client, model), base_urls=[base_url])
        return [str(output) for output in (await flow.run(question)).get_outputs()]


@app.command()
def main(
    base_url: Annotated[str, typer.Argument(help="where the server is, with its /v1")],
    model: Annotated[str, typer.Argument(help="what the server calls its model")] = "default",
) -> None:
    """Ask a question, and print what became of each agent's calls."""
    for output in asyncio.run(ask(base_url, model, "Why did lighthouses lose their keepers?")):
        print(output)
    print(kvflow_agents.report())


if __name__ == "__main__":
    app()
