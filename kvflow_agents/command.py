"""A command of `kvflow` that imports the command line's library, an extra, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer


def made_by(add: Callable[[typer.Typer], None]) -> Callable[[str], Any]:
    """A module's `__getattr__`: the entry point's `app`, to which `add` adds its callback."""

    def attribute(name: str) -> Any:
        if name != "app":
            raise AttributeError(name)
        import typer

        # A group without commands, because `kvflow` adds each as a group; the callback is it.
        app = typer.Typer(add_completion=False, subcommand_metavar="")
        add(app)
        return app

    return attribute
