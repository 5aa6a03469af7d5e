"""What the benchmark's tests share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # The model is made with torch and transformers, which warn at import.
    for module in ("torch", "transformers"):
        config.addinivalue_line("filterwarnings", f"ignore:::{module}.*")
