"""What machine this is: versions, the GPU, and the rate that a large matrix product attains on it.

python -m benchmarks.gpu.machine --result FILE
"""

import argparse
import importlib
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

IMPORTED = (
    "accelerate", "aiohttp", "awscrt", "bitsandbytes", "jinja2", "numpy", "peft", "pyarrow", "pydantic",
    "safetensors", "tokenizers", "torch", "transformers", "yarl",
)  # fmt: skip
"""What the trainer imports at the outset."""
SIDE, TIMES = 8192, 10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--result", type=Path, required=True)
    result: dict[str, Any] = {"versions": {}, "missing": {}}
    for name in IMPORTED:
        try:
            importlib.import_module(name)
            result["versions"][name] = version(name)
        except Exception as error:  # whatever an import raises is what is to be told
            result["missing"][name] = f"{type(error).__name__}: {error}"
    if "torch" in result["versions"]:
        result |= hardware()
    parser.parse_args().result.write_text(json.dumps(result))
    product = f", {result['product_tflops']:.0f} TFLOP/s" if "product_tflops" in result else ""
    print(f"{result.get('gpu') or 'no GPU'}{product}, {len(result['missing'])} packages missing")


def hardware() -> dict[str, Any]:
    """The GPU's name and memory, and TFLOP/s of a bf16 matrix product of random numbers."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "cuda": torch.version.cuda}
    a, b = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(TIMES):
        a @ b
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / TIMES
    return {
        "gpu": torch.cuda.get_device_name(0),
        "cuda": torch.version.cuda,
        "memory_gib": torch.cuda.get_device_properties(0).total_memory / 2**30,
        "product_tflops": 2 * SIDE**3 / seconds / 1e12,
    }


if __name__ == "__main__":
    main()
