"""What the commands' options mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kvflow_agents.errors import ConfigurationError
from kvflow_bench import fleet, instruments
from kvflow_bench.adapters import Adapters
from kvflow_sglang import serve, tiny_lora, tiny_model
from kvflow_sglang.model import make

# What lets a base model without weights have adapters.
DUMMY_BASE = {"SGLANG_PLUGINS": "kvflow_instruments", instruments.DUMMY_BASE_VARIABLE: "1"}


def make_launch(
    model: str | None,
    engine: str | None,
    logs: Path | None,
    config: str | None,
    flags: Sequence[str],
    **sizes: Any,
) -> fleet.Launch:
    """How servers are started. Without a model the tiny one is made, if they run on a CPU.

    ConfigurationError if an option is not usable.
    """
    folder = logs or fleet.new_log_folder()
    runs_on = _engine(engine)
    if model is None and runs_on is serve.Engine.CPU:
        model = str(folder / "tiny")
        make(folder / "tiny", tiny_model.write)
    return fleet.Launch(
        model=model or "",
        engine=runs_on.value,
        log_folder=folder,
        flags=flags,
        config=_json_object(config),
        **sizes,
    )


def with_adapters(launch: fleet.Launch, count: int, slots: int) -> fleet.Launch:
    """The same servers with LoRA adapters, which the tiny model that was made here is given.

    ConfigurationError if another model's folder has fewer.
    """
    adapters = Adapters(Path(launch.model), count, slots)
    if adapters.model == launch.log_folder / "tiny":
        for number, path in enumerate(adapters.paths().values()):
            make(path, partial(tiny_lora.write, number=number), config=tiny_lora.CONFIG)
    adapters.check()
    env = {**launch.env, **DUMMY_BASE} if _has_no_weights(launch) else launch.env
    return replace(launch, adapters=adapters, env=env)


def _has_no_weights(launch: fleet.Launch) -> bool:
    return bool({"dummy", "--load-format=dummy"} & set(launch.flags))


def _engine(name: str | None) -> serve.Engine:
    if name is None:
        return serve.detect_engine()
    if name not in list(serve.Engine):
        raise ConfigurationError(f"--engine is cpu or gpu, not {name}")
    return serve.Engine(name)


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigurationError(f"--kvflow-config is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"--kvflow-config must be a JSON object, not {text}")
    return value


def addresses(given: Sequence[str] | None) -> dict[str, str]:
    """Servers by name, from `NAME=URL`. ConfigurationError for anything else."""
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, url in pairs:
        if not equals or not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"--server takes NAME=URL, not {name}{equals}{url}")
    return {name: url for name, _, url in pairs}


def commands(given: Sequence[str] | None, addresses: Mapping[str, str]) -> dict[str, str]:
    """How servers that run already were started, by name, from `NAME=COMMAND`.

    ConfigurationError if a name is not that of a given server.
    """
    pairs = [text.partition("=") for text in given or ()]
    for name, equals, _ in pairs:
        if not equals or name not in addresses:
            raise ConfigurationError(
                f"--server-command takes NAME=COMMAND, with the NAME of a --server, not {name!r}"
            )
    return {name: command for name, _, command in pairs}
