"""What the server's tests share: a model folder, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the random model whose tokens are ASCII characters."""
    from kvflow_sglang import model, tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.make(folder, tiny_model.write)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    # SGLang and its dependencies warn at import of what this machine or Python lacks.
    for module in ("sglang", "torch", "transformers", "flashinfer", "modelscope", "datasets"):
        config.addinivalue_line("filterwarnings", f"ignore:::{module}.*")
    # SWIG modules (sentencepiece) raise this while they load, where an error kills Python at exit.
    config.addinivalue_line("filterwarnings", "ignore:builtin type .* has no __module__ attribute")
