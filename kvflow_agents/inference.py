"""Hints for requests that carry none, inferred from the traffic alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvflow_agents.forecast import Forecast
from kvflow_agents.hints import Hint
from kvflow_agents.inference_app import LearnedApp
from kvflow_agents.inference_links import Answers, Prompts
from kvflow_agents.inference_prompts import PromptTree, chain_of
from kvflow_agents.inference_workflows import InferredWorkflow, Intent, Origin, Workflows
from kvflow_agents.prefix import Tokens

# 16,384 tokens: longer histories are known by the answers in them.
_MAX_CHUNKS = 512
# Of a request that says nothing of itself.
_ANYBODY = Origin()
_NOTHING = Intent()


@dataclass(frozen=True, slots=True)
class InferredCall:
    """A request as it was understood; `caller` is None where inference abstains."""

    workflow: int
    agent: str | None
    caller: Hint | None
    intent: Intent = _NOTHING


class Inference:
    """Infers agents, workflows and forecasts from prompts and answers in the order they come.

    An agent is a fixed part of prompts (`PromptTree`). A workflow is what a client names as one
    (`Origin.session`), or prompts that quote its answers or extend its prompts. What follows what
    is counted for each application, which is known by the agent that begins it. Where the agent
    is not known, or what follows is not certain, it abstains: the call is one without a hint,
    unless the client says that its conversation goes on (`Intent`).
    Deterministic, without a clock; bounded in memory and, per request, in time: O(tokens).
    """

    def __init__(
        self, hear: Callable[[Hint], object], *, most_workflows: int = 4096, most_apps: int = 64
    ) -> None:
        """`hear` takes every forecast, also those that withdraw an earlier one."""
        self._hear = hear
        self._most_apps = most_apps
        self._prompts = PromptTree()
        self._ends = Prompts()
        self._answers = Answers()
        self._workflows = Workflows(most=most_workflows)
        self._apps: OrderedDict[str, LearnedApp] = OrderedDict()
        self.inferred = 0
        self.abstained = 0

    @property
    def workflows(self) -> int:
        """How many workflows are remembered, single calls among them."""
        return len(self._workflows)

    @property
    def agents(self) -> int:
        """How many agents are known, of which it is counted what follows."""
        return sum(map(len, self._apps.values()))

    @property
    def remembered(self) -> int:
        """How much is remembered in all: chunks, answers' windows, ends, workflows, agents."""
        of_prompts = len(self._prompts) + len(self._ends) + len(self._answers)
        return of_prompts + self.workflows + self.agents

    def arrived(
        self, prompt: Tokens, origin: Origin = _ANYBODY, intent: Intent = _NOTHING
    ) -> InferredCall:
        """A request without a hint has arrived."""
        self._note_silent()
        chain = chain_of(prompt, origin.space, _MAX_CHUNKS)
        workflow = self._workflow_of(prompt, chain, origin)
        self._prompts.see(chain, workflow.number)
        self._ends.add(prompt, chain, workflow.number)
        fixed = self._prompts.find(chain)
        agent = None if fixed is None else fixed.agent
        if workflow.last is not None:
            is_first = workflow.open_end is not None
            self._app_of(workflow).follow(workflow.last, agent, is_first=is_first)
        workflow.starts(agent)
        caller = self._forecast(workflow, agent, intent, has_finished=False)
        self.inferred += caller is not None
        self.abstained += caller is None
        return InferredCall(workflow.number, agent, caller, intent)

    def finished(self, call: InferredCall, answer: Tokens) -> None:
        """A call has been answered."""
        workflow = self._workflows.find(call.workflow)
        if workflow is None:
            return
        self._workflows.answer(workflow)
        self._answers.add(answer, workflow.number)
        workflow.finishes(call.agent)
        if call.intent.is_last:
            self._end(workflow)
        elif call.caller is not None:
            self._forecast(workflow, call.agent, call.intent, has_finished=True)

    def likely_next(self, call: InferredCall) -> str | None:
        """The agent that most often follows such a call, if that is known."""
        workflow = self._workflows.find(call.workflow)
        app = None if workflow is None else self._apps.get(workflow.app or "")
        return None if app is None or call.agent is None else app.likely_next(call.agent)

    def _workflow_of(
        self, prompt: Tokens, chain: Sequence[int], origin: Origin
    ) -> InferredWorkflow:
        if origin.session is not None:
            workflow = self._workflows.of_session(origin)
        else:
            workflow = self._workflows.find(self._repeated(prompt, chain))
        if workflow is None or workflow.origin != origin:
            workflow = self._workflows.make(origin)
        elif self._workflows.is_silent(workflow) and workflow.open_end is not None:
            self._app_of(workflow).resume(workflow.open_end)
        self._workflows.call(workflow)
        for forgotten in self._workflows.forget_excess():
            self._withdraw(forgotten)
        return workflow

    def _repeated(self, prompt: Tokens, chain: Sequence[int]) -> int | None:
        """The workflow whose prompt is extended, or whose answers are quoted."""
        extended = self._ends.find(prompt, chain)
        if extended is not None:
            return extended
        fixed = self._prompts.find(chain)
        return self._answers.find(prompt, 0 if fixed is None else fixed.tokens)

    def _note_silent(self) -> None:
        for workflow in self._workflows.fall_silent():
            self._withdraw(workflow)
            if workflow.open_end is not None:
                self._app_of(workflow).end(workflow.open_end)

    def _app_of(self, workflow: InferredWorkflow) -> LearnedApp:
        name = workflow.app or ""
        app = self._apps.setdefault(name, LearnedApp())
        self._apps.move_to_end(name)
        if len(self._apps) > self._most_apps:
            self._apps.popitem(last=False)
        return app

    def _forecast(
        self, workflow: InferredWorkflow, agent: str | None, intent: Intent, *, has_finished: bool
    ) -> Hint | None:
        """Say what the workflow expects, or take back what was said."""
        app = self._apps.get(workflow.app or "")
        steps = None
        if app is not None and agent is not None:
            steps = app.steps(agent, running=workflow.running, has_finished=has_finished)
        if steps is None and intent.conversation is not None:
            return self._expect_more(workflow, intent.conversation, has_finished=has_finished)
        if steps is None:
            self._withdraw(workflow)
            return None
        workflow.seq += 1
        workflow.is_expected = True
        forecast = Forecast(workflow.seq, steps)
        name, tenant = _name(workflow.number), workflow.origin.tenant
        hint = Hint(
            name,
            forecast,
            agent=None if has_finished else agent,
            app=_name(workflow.app),
            tenant=tenant,
            is_answer=has_finished,
        )
        self._hear(hint)
        return hint

    def _expect_more(
        self, workflow: InferredWorkflow, conversation: str, *, has_finished: bool
    ) -> Hint:
        """Nothing is known of who comes next, but the client says that it goes on."""
        workflow.seq += 1
        workflow.is_expected = True
        name = _name(conversation)
        # Other conversations of the workflow keep what was said of them.
        forecast = Forecast(workflow.seq, {name: int(has_finished)}, changes=True)
        caller, tenant = None if has_finished else name, workflow.origin.tenant
        hint = Hint(_name(workflow.number), forecast, agent=caller, tenant=tenant)
        self._hear(hint)
        return hint

    def _end(self, workflow: InferredWorkflow) -> None:
        """The client says that nothing follows."""
        if workflow.open_end is not None:
            self._app_of(workflow).end(workflow.open_end)
        workflow.seq += 1
        self._workflows.forget(workflow)
        forecast, tenant = Forecast(workflow.seq, done=True), workflow.origin.tenant
        self._hear(Hint(_name(workflow.number), forecast, tenant=tenant))

    def _withdraw(self, workflow: InferredWorkflow) -> None:
        if workflow.is_expected:
            workflow.seq += 1
            workflow.is_expected = False
            forecast, tenant = Forecast(workflow.seq), workflow.origin.tenant
            self._hear(Hint(_name(workflow.number), forecast, tenant=tenant))


def _name(what: object) -> str:
    """A name that no hint from outside can have: those hold no control characters."""
    return f"\x00{what}"
