from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvflow_agents.errors import ConfigurationError
from kvflow_bench import shape, slow_link
from kvflow_bench.fleet import Launch


def launch(model: Path, engine: str) -> Launch:
    return Launch(str(model), engine, pool_tokens=1, ceiling_tokens=1, log_folder=model)


def test_the_delay_is_the_time_of_one_layer() -> None:
    # 32 MB at 2 GB/s are 16 ms, at 1 GHz 16 million cycles.
    assert slow_link.delay_cycles(2.0, 32_000_000, 1e9) == 16_000_000


def test_the_models_shape_says_what_a_token_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(shape.LLAMA_8B))
    assert slow_link.layer_token_bytes(tmp_path) == 2 * 8 * 128 * 2
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "config.json").write_text(json.dumps(shape.QWEN_32B))
    assert slow_link.layer_token_bytes(tmp_path / "qwen") == 2 * 8 * 128 * 2
    monkeypatch.setattr(slow_link, "gpu_clock_hz", lambda: 1e9)
    slowed = slow_link.slowed(launch(tmp_path, "gpu"), 2.0, load_tokens=8192)
    assert slowed.env == {"SGLANG_TEST_HICACHE_H2D_DELAY_CYCLES": str(8192 * 4096 // 2)}


def test_it_needs_a_gpu_and_a_shape(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs a GPU"):
        slow_link.slowed(launch(tmp_path, "cpu"), 2.0, 1)
    with pytest.raises(ConfigurationError, match="shape"):
        slow_link.slowed(launch(tmp_path, "gpu"), 2.0, 1)
