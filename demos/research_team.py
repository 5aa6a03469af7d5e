"""LangGraph teams against stock SGLang and against kvflow, side by side.

`./scripts/demo` sets everything up and runs this; `--help` lists the options.
"""

from __future__ import annotations

import typer

from demos.comparison import command
from demos.scale import scale_of

if __name__ == "__main__":
    typer.run(
        command(scale_of, "Run LangGraph teams against stock SGLang and kvflow, and compare.")
    )
