"""Turns: what code is inside of, by a context variable, from where it enters to where it leaves.

Tokens of context variables would do if turns ended in the order in which they were entered, in the
context that they were entered in. Those of generators do not: theirs is the consumer's context.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, TypeVar


class Turn:
    """One turn. When it is over nothing goes back to it."""

    before: Turn | None = None
    """In which turn the code was when it entered this one."""
    is_over = False


TurnT = TypeVar("TurnT", bound=Turn)


def current(variable: ContextVar[TurnT | None]) -> TurnT | None:
    """The turn that the code at work is in: the innermost that is not over."""
    turn = variable.get()
    return turn if turn is None or not turn.is_over else _open(turn)


def enter(variable: ContextVar[TurnT | None], turn: TurnT) -> None:
    """The code at work is in a turn from now on."""
    turn.before = current(variable)
    variable.set(turn)


def leave(variable: ContextVar[TurnT | None], turn: TurnT) -> None:
    """A turn is over. Whoever is in it still goes back to where it was before; others stay."""
    turn.is_over = True
    within: Turn | None = variable.get()
    while within is not None and within is not turn:
        within = within.before
    if within is turn:
        variable.set(_open(turn.before))


def give_back(token: Token[Any]) -> None:
    """Give a variable back what it had before, but only in the context that it was set in.

    What is collected before it has ended, a coroutine or a stream, is ended in any other.
    """
    try:
        token.var.reset(token)
    except ValueError:
        pass


def _open(turn: Any) -> Any:
    """The innermost turn that is not over, from one outwards."""
    while turn is not None and turn.is_over:
        turn = turn.before
    return turn
