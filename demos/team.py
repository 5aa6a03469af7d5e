"""A research team as a plain LangGraph app: it knows nothing of kvflow.

    planner -> three researchers -> (all) writer <-> critic -> fact checker -> lawyer
    -> translator -> illustrator -> archivist -> editor -> planner ...

Who runs next depends on counts, not on what a small model says.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph

NOTE_CHARACTERS = 80

DUTIES = {
    "planner": "split the question into three lines of enquiry and say what each must settle",
    "historian": "find out how the matter came about and which earlier attempts failed, and why",
    "statistician": "gather the figures, their sources and their margins of error",
    "sceptic": "look for what speaks against the obvious answer and for interests behind it",
    "writer": "turn the notes into one clear paragraph that a hurried reader can trust",
    "critic": "name the weakest sentence of the draft and say how it has to change",
    "fact_checker": "compare every claim of the draft with the notes and mark what is not covered",
    "lawyer": "say which sentence of the draft could be challenged in court and soften it",
    "translator": "put the draft into words that survive translation into three languages",
    "illustrator": "describe the one picture that would stand beside the draft",
    "archivist": "choose five index terms and name the shelf on which the draft belongs",
    "editor": "cut the draft to its shortest true form and give it a title",
}
RESEARCHERS = ("historian", "statistician", "sceptic")
# Each looks at the draft in turn, before the editor has the last word.
REVIEWERS = ("fact_checker", "lawyer", "translator", "illustrator", "archivist")

RULES = (
    "Say first what you know and only then what you suspect.",
    "Give numbers with their unit, their year and their source.",
    "Keep every sentence under twenty words.",
    "Never repeat what a colleague has already written.",
    "Mark a guess as a guess, and say what would settle it.",
    "Prefer the older source if two sources copy each other.",
    "Do not address the reader, and do not praise the question.",
    "Use the words of the field, and explain each of them once.",
    "If two findings disagree, report both and say which one you would bet on.",
    "Leave out what does not change the answer.",
    "Write plain text without lists, headings or emphasis.",
    "Stop when the point is made.",
)


class Research(TypedDict, total=False):
    """What the team shares while it works through its questions."""

    questions: list[str]
    answered: int
    plan: str
    notes: Annotated[list[str], operator.add]
    draft: str
    drafts: int
    critique: str
    reports: Annotated[list[str], operator.add]


def handbook(role: str, client: str, words: int) -> str:
    """A system prompt of about so many words; no two roles or clients share a beginning."""
    rotation = sorted(DUTIES).index(role)
    rules = [*RULES[rotation:], *RULES[:rotation]]
    text = f"{client}: you are the {role}. It is your duty to {DUTIES[role]}."
    chapter = 1
    while len(text.split()) < words:
        rule = rules[chapter % len(rules)]
        text += f" Rule {chapter} for the {role}: {rule}"
        chapter += 1
    return text


def calls_per_question(reviewers: int, revisions: int) -> int:
    """Planner, researchers, writer and critic once and for each revision, reviewers, editor."""
    return 1 + len(RESEARCHERS) + 2 * (1 + revisions) + reviewers + 1


def build(
    model: BaseChatModel,
    *,
    client: str = "House rules",
    words: int = 300,
    reviewers: int = len(REVIEWERS),
    revisions: int = 1,
) -> Any:
    """Compile the team's graph, with the first so many reviewers and so many revised drafts.

    `client` makes all its prompts differ from those of other clients.
    """

    def ask(role: str, text: str) -> str:
        system = SystemMessage(handbook(role, client, words))
        return str(model.invoke([system, HumanMessage(text)]).text).strip()

    graph = StateGraph(Research)

    def after_critic(state: Research) -> Literal["writer", "fact_checker"]:
        return "writer" if state["drafts"] <= revisions else "fact_checker"

    reviewing = REVIEWERS[:reviewers]
    for role, node in _nodes(ask, reviewing).items():
        graph.add_node(role, node)
    graph.add_edge(START, "planner")
    for researcher in RESEARCHERS:
        graph.add_edge("planner", researcher)
    graph.add_edge(list(RESEARCHERS), "writer")
    graph.add_edge("writer", "critic")
    graph.add_conditional_edges("critic", after_critic)
    for reviewer, following in pairwise((*reviewing, "editor")):
        graph.add_edge(reviewer, following)
    graph.add_conditional_edges("editor", _after_editor, {"next": "planner", "done": END})
    return graph.compile()


def _after_editor(state: Research) -> str:
    return "next" if state["answered"] < len(state["questions"]) else "done"


def _nodes(ask: Callable[[str, str], str], reviewing: Sequence[str]) -> dict[str, Any]:
    def question(state: Research) -> str:
        return state["questions"][state.get("answered", 0)]

    def planner(state: Research) -> Research:
        return {"plan": ask("planner", f"Question: {question(state)}"), "drafts": 0}

    def researcher(role: str) -> Callable[[Research], Research]:
        def research(state: Research) -> Research:
            return {"notes": [_note(ask(role, f"{question(state)} Plan: {_note(state['plan'])}"))]}

        return research

    def writer(state: Research) -> Research:
        notes = " ".join(state["notes"][-len(RESEARCHERS) :])
        text = f"{question(state)} Notes: {notes} Critique: {_note(state.get('critique', ''))}"
        return {"draft": ask("writer", text), "drafts": state["drafts"] + 1}

    def critic(state: Research) -> Research:
        return {"critique": ask("critic", f"Draft {state['drafts']}: {_note(state['draft'])}")}

    def reviewer(role: str) -> Callable[[Research], Research]:
        def review(state: Research) -> Research:
            return {"critique": ask(role, f"Draft: {_note(state['draft'])}")}

        return review

    def editor(state: Research) -> Research:
        report = ask("editor", f"Draft: {_note(state['draft'])} {_note(state['critique'])}")
        return {"reports": [report], "answered": state.get("answered", 0) + 1}

    nodes: dict[str, Any] = {"planner": planner, "writer": writer, "critic": critic}
    nodes |= {role: researcher(role) for role in RESEARCHERS}
    nodes |= {role: reviewer(role) for role in reviewing}
    return nodes | {"editor": editor}


def _note(text: str) -> str:
    return text[:NOTE_CHARACTERS]
