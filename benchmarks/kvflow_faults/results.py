"""All stages of a run, kvflow's beside the stock server's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kvflow_faults.stage import Stage

TOTALS = ("answered", "wrong", "lost", "outage", "deaths")


@dataclass(slots=True)
class Results:
    """What became of both servers so far."""

    control: list[Stage] = field(default_factory=list)
    """The stock server's stages."""
    stages: list[Stage] = field(default_factory=list)

    def harms(self) -> list[str]:
        """What speaks against kvflow; empty if it has passed."""
        control = {stage.fault: stage for stage in self.control}
        return [
            f"{stage.fault}: {harm}"
            for stage in self.stages
            for harm in stage.harms(control.get(stage.fault))
        ]

    def document(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            **about,
            "harms": self.harms(),
            "control_total": _total(self.control),
            "total": _total(self.stages),
            "control": list(map(asdict, self.control)),
            "stages": list(map(asdict, self.stages)),
        }


def _total(stages: Iterable[Stage]) -> dict[str, int]:
    return {name: sum(getattr(stage, name) for stage in stages) for name in TOTALS}
