"""LoRA adapters of a benchmark: their names, and how each server holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvflow_agents.errors import ConfigurationError
from kvflow_bench.arms import ServerKind
from kvflow_sglang.model import ADAPTERS
from kvflow_sglang.tiny_lora import CONFIG


def name(number: int) -> str:
    """What servers call adapter `number`."""
    return f"a{number}"


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters in a model's folder, and the device's slots for them."""

    model: Path
    count: int
    slots: int

    def check(self) -> None:
        """Raise ConfigurationError if one of them is missing."""
        for path in self.paths().values():
            if not (path / CONFIG).exists():
                raise ConfigurationError(
                    f"{path} is missing: `kvflow model tiny` and `kvflow bench shape` write "
                    f"adapters with --adapters {self.count}"
                )

    def paths(self) -> dict[str, Path]:
        """Where each adapter is, by its name."""
        folder = self.model / ADAPTERS
        return {name(number): folder / str(number) for number in range(self.count)}

    def options(self, kind: ServerKind) -> list[str]:
        """The options of `sglang serve` for one kind of server; the base model takes a slot too."""
        slots = self.count + 1 if kind.fits_everything else self.slots
        loaded = list(self.paths().items())[: self._most_loaded(kind)]
        ahead = ["--enable-lora-overlap-loading", "--max-loaded-loras", str(2 * self.slots)]
        return [
            *("--enable-lora", "--max-loras-per-batch", str(slots)),
            *(ahead if kind.overlaps_loras else ()),
            *("--lora-paths", *(f"{each}={path}" for each, path in loaded)),
        ]

    def left_out(self, kind: ServerKind) -> dict[str, Path]:
        """What a server cannot hold at once, and has to hear of when it runs."""
        return dict(list(self.paths().items())[self._most_loaded(kind) :])

    def _most_loaded(self, kind: ServerKind) -> int:
        # SGLang 0.5.23 refuses to pin more than this.
        return min(self.count, 2 * self.slots) if kind.overlaps_loras else self.count
