"""What the adapter relies on inside LangGraph (1.0 to 1.2): every such name is in this module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kvflow_agents import ConfigurationError
from kvflow_agents.patches import Seam

Loop: TypeAlias = Any
"""langgraph's `PregelLoop`: one graph's part of a run."""
LoopTask: TypeAlias = Any
"""langgraph's `PregelExecutableTask`."""

_EXIT = ("exc_type", "exc_value", "traceback")
_FAILED = ("failed_task", "error")


@dataclass(frozen=True, slots=True)
class Seams:
    """The methods through which every run goes."""

    tick: Seam
    accept_push: Seam
    commit: Seam
    leave: Seam
    aleave: Seam
    schedule_error_handler: Seam
    aschedule_error_handler: Seam


def require_langgraph() -> None:
    """ConfigurationError if no LangGraph is installed."""
    try:
        import langgraph.pregel  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "the adapter needs LangGraph, which is not installed: "
            "pip install 'kvflow-agents[langgraph]'"
        ) from error


def find_seams() -> Seams:
    """The seams of the installed LangGraph; ImportError if it has other classes."""
    from langgraph.pregel._loop import AsyncPregelLoop, PregelLoop, SyncPregelLoop
    from langgraph.pregel._runner import PregelRunner

    return Seams(
        # A superstep is planned when `tick` returns True; none of its tasks has started.
        tick=Seam(PregelLoop, "tick", ()),
        # A task of the functional API joins the superstep.
        accept_push=Seam(PregelLoop, "accept_push", ("task", "write_idx", "call")),
        # A task has run; not called between the attempts of a retry.
        commit=Seam(PregelRunner, "commit", ("task", "exception")),
        # The loop is over: by its end, an error, cancellation, or a stream left alone.
        leave=Seam(SyncPregelLoop, "__exit__", _EXIT),
        aleave=Seam(AsyncPregelLoop, "__aexit__", _EXIT),
        # Error handlers are new in LangGraph 1.2.
        schedule_error_handler=Seam(
            SyncPregelLoop, "schedule_error_handler", _FAILED, is_optional=True
        ),
        aschedule_error_handler=Seam(
            AsyncPregelLoop, "aschedule_error_handler", _FAILED, is_optional=True
        ),
    )


def is_graph(subject: object) -> bool:
    """Whether something is a compiled graph."""
    from langgraph.pregel import Pregel

    return isinstance(subject, Pregel)


def graph_of(loop: Loop) -> Any | None:
    """The compiled graph that a loop runs: the loop keeps a method bound to it."""
    graph = getattr(loop._migrate_checkpoint, "__self__", None)
    return graph if getattr(graph, "nodes", None) is loop.nodes else None


def tasks_of(loop: Loop) -> list[LoopTask]:
    """The tasks of the superstep that a loop has planned."""
    return list(loop.tasks.values())


def has_run(task: LoopTask) -> bool:
    """Whether a task's result was restored from a checkpoint: it does not run again."""
    return bool(task.writes)


def handlers_of(loop: Loop) -> Iterable[Any]:
    """The callback handlers of a loop's run."""
    return getattr(loop.manager, "handlers", ())


def thread_of(loop: Loop) -> str | None:
    """The thread of a loop, whose next run goes on with the workflow."""
    thread = loop.config.get("configurable", {}).get("thread_id")
    return None if thread is None else str(thread)


def run_id_of(loop: Loop) -> str | None:
    """The id of a loop's run."""
    run_id = getattr(loop.manager, "run_id", None)
    return None if run_id is None else str(run_id)


def is_resumable(loop: Loop) -> bool:
    """Whether the thread may go on after this run."""
    return loop.checkpointer is not None


def tasks_around(loop: Loop) -> list[str]:
    """The ids of the tasks that a nested loop runs in, innermost first; of a root loop, none."""
    return _task_ids("|".join(loop.checkpoint_ns)) if loop.is_nested else []


def tasks_around_call() -> list[str]:
    """The ids of the tasks that the code at work runs in, innermost first."""
    from langchain_core.runnables.config import var_child_runnable_config

    config: Mapping[str, Any] = var_child_runnable_config.get() or {}
    return _task_ids(config.get("configurable", {}).get("checkpoint_ns") or "")


def _task_ids(namespace: str) -> list[str]:
    # `node:id|node:id`; a bare number counts the graphs that one task has run.
    segments = reversed(namespace.split("|"))
    return [segment.rpartition(":")[2] for segment in segments if ":" in segment]
