"""What the adapter relies on inside LlamaIndex: every such name is in this module.

Tested with llama-index-core 0.14 and llama-index-workflows 2.26.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Workflow: TypeAlias = Any
"""`workflows.Workflow`: an agent and an `AgentWorkflow` are workflows, too."""
Runner: TypeAlias = Any
"""What takes a workflow's events to its steps, one event after the other."""
Handler: TypeAlias = Any
"""`workflows.handler.WorkflowHandler`: a run that goes on in the background."""
Command: TypeAlias = Any
"""That a step is to begin."""
Tick: TypeAlias = Any
"""Something that has happened in a run."""


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes."""

    run: Seam
    begin_step: Seam
    tick: Seam


@dataclass(frozen=True, slots=True)
class _Classes:
    """What workflows and events are compared with: imported once, when a run needs it."""

    workflow: type
    team: type
    agent: type
    start: type
    stop: type
    input: Any
    step_result: Any
    returned: type
    step: Any


def require_llama_index() -> None:
    """ConfigurationError if no LlamaIndex is installed."""
    try:
        import llama_index.core  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs llama-index-core, which is not installed: "
            "pip install 'kvflow-agents[llama-index]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed LlamaIndex; ImportError if it lacks a name that is needed."""
    from workflows import Workflow
    from workflows.runtime.control_loop.runner import _ControlLoopRunner

    if not hasattr(_classes().workflow, "_get_steps"):
        raise ImportError("Workflow._get_steps is missing")
    return Seams(
        # Agents and `AgentWorkflow` have a `run` of their own, which ends in this one.
        run=Seam(Workflow, "run", ("ctx", "start_event", "kwargs")),
        # Called for all steps that an event starts before the first of them runs.
        begin_step=Seam(_ControlLoopRunner, "run_worker", ("command",)),
        tick=Seam(_ControlLoopRunner, "_process_tick", ("tick",)),
    )


@cache
def _classes() -> _Classes:
    from llama_index.core.agent.workflow import AgentInput, AgentWorkflow
    from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
    from workflows import Workflow
    from workflows.events import StartEvent, StopEvent
    from workflows.runtime.types.results import StepWorkerResult, StepWorkerStateContextVar
    from workflows.runtime.types.ticks import TickStepResult

    return _Classes(
        workflow=Workflow,
        team=AgentWorkflow,
        agent=BaseWorkflowAgent,
        start=StartEvent,
        stop=StopEvent,
        input=AgentInput,
        step_result=TickStepResult,
        returned=StepWorkerResult,
        step=StepWorkerStateContextVar,
    )


def is_workflow(subject: object) -> bool:
    """Whether something can be run."""
    return isinstance(subject, _classes().workflow)


def is_team(workflow: Workflow) -> bool:
    """Whether a workflow is agents that hand over to one another."""
    return isinstance(workflow, _classes().team)


def is_agent(workflow: Workflow) -> bool:
    """Whether a workflow is one agent."""
    return isinstance(workflow, _classes().agent)


def name_of(workflow: Workflow) -> str:
    """What a workflow is called inside another one."""
    return str(workflow.name) if is_agent(workflow) else type(workflow).__name__


def workflow_of(runner: Runner) -> Workflow:
    """The workflow whose events a runner takes on."""
    return runner.workflow


def step_begun_by(command: Command) -> str:
    """The step that is to begin."""
    return str(command.step_id)


def agent_asked_by(command: Command) -> str | None:
    """The agent whose turn it is from the step on that is to begin; None if nothing changes."""
    event = command.event
    return str(event.current_agent_name) if isinstance(event, _classes().input) else None


def step_ended_by(tick: Tick) -> str | None:
    """The step that has run to its end; one that fails or waits will run again."""
    classes = _classes()
    if not isinstance(tick, classes.step_result):
        return None
    has_returned = any(isinstance(result, classes.returned) for result in tick.result)
    return str(tick.step_id) if has_returned else None


def returns_nothing(tick: Tick) -> bool:
    """Whether a step has ended without an event: those that follow from it were sent."""
    return all(getattr(result, "result", None) is None for result in tick.result)


def step_at_work() -> str | None:
    """The step in whose context the code at work runs."""
    step = _classes().step.get(None)
    return None if step is None else str(step.state.step_name)


def on_end(handler: Handler, callback: Any) -> None:
    """Call something when a run is over, however it went; before who waits for it goes on."""
    handler._result_task.add_done_callback(callback)


def agents_of(team: Workflow) -> Mapping[str, Any]:
    """A team's agents by name, in their order."""
    agents: Mapping[str, Any] = team.agents
    return agents


def root_of(team: Workflow) -> str:
    """The agent with which a team begins."""
    return str(team.root_agent)


def handoffs_of(team: Workflow, name: str) -> list[str]:
    """Whom an agent can hand over to: those it names as far as they exist, else everybody."""
    named = team.agents[name].can_handoff_to
    return [other for other in team.agents if other != name and (named is None or other in named)]


def steps_of(workflow: Workflow) -> Mapping[str, Any]:
    """The steps of a workflow by name, in an order that is the same in every process."""
    return dict(sorted(workflow._get_steps().items()))


def takes(step: Any) -> Sequence[Any]:
    """The events that a step runs for."""
    accepted: Sequence[Any] = step._step_config.accepted_events
    return accepted


def gives(step: Any) -> Iterable[Any]:
    """The events that a step says it returns."""
    return [event for event in step._step_config.return_types if event is not type(None)]


def needs_all(step: Any) -> bool:
    """Whether a step waits for one of each event that it takes."""
    return bool(getattr(step._step_config, "collect_params", None))


def is_start(event: Any) -> bool:
    """Whether an event begins a run."""
    return isinstance(event, type) and issubclass(event, _classes().start)


def is_stop(event: Any) -> bool:
    """Whether an event ends a run."""
    return isinstance(event, type) and issubclass(event, _classes().stop)
