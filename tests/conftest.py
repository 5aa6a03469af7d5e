"""What holds for the tests of every package."""

from __future__ import annotations

import os

import pytest

from kvflow_agents.refusal import Refusals
from kvflow_agents.sdk import sdk
from kvflow_sglang.server_process import server_python

# Modules of the models that the tests' servers may serve.
SERVED = {"llama", "qwen2", "qwen3"}


def pytest_configure() -> None:
    """Let no server import all of SGLang's models: a quarter of its start, in two processes."""
    models = server_python().parents[1].glob("lib/python*/site-packages/sglang/srt/models/*.py")
    unused = sorted({model.stem for model in models} - SERVED)
    os.environ.setdefault("SGLANG_DISABLED_MODEL_ARCHS", ",".join(unused))


@pytest.fixture(autouse=True)
def nobody_has_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of another test, at the same port, may have refused hints."""
    monkeypatch.setattr(sdk, "_refusals", Refusals())
