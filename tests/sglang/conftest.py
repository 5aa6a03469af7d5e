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
