"""A base model with random weights and a tokenizer of words, and documents for it.

    python -m benchmarks.gpu.base --workload lora-8b --folder FOLDER [--tiny]

All tensors of one shape hold the same random numbers, so that 16 GB are written as fast as the disk takes
them, straight from memory.
"""

import argparse
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.gpu.workloads import Workload, find

SHARD = 2 << 30
DEVIATION = 0.02
SPECIAL = ("<pad>", "<end>", "<unk>")
PAD, END, UNKNOWN = SPECIAL


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    workload = find(options.workload, small=options.tiny)
    write_base(options.folder, workload)
    print(f"{sum(file.stat().st_size for file in options.folder.iterdir()) / 1e9:.1f} GB")


def write_base(folder: Path, workload: Workload) -> None:
    """Config, tokenizer and weights in bf16."""
    folder.mkdir(parents=True)
    config = AutoConfig.for_model(**workload.config, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) > workload.weights, "it counts too many"
    config.save_pretrained(folder)
    tokenizer_of(workload.config["vocab_size"]).save_pretrained(folder)
    write_weights(folder, {name: tuple(p.shape) for name, p in model.named_parameters()})


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    """Each token is a word: w3, w4, ..."""
    words = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))])}
    made = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def write_weights(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """The shapes as safetensors files and their index."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, shape in shapes.items():
        if held > SHARD:
            shards.append({})
            held = 0
        shards[-1][name] = shape
        held += 2 * int(np.prod(shape))
    numbers = {shape: _numbers(shape) for shape in {*shapes.values()}}
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(_write, folder / f, s, numbers) for f, s in zip(files, shards, strict=True)]
        for part in work:
            part.result()
    index = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    total = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def _numbers(shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of a matrix of random bf16 numbers, or of a norm's ones."""
    if len(shape) == 1:
        made = torch.ones(shape, dtype=torch.bfloat16)
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        made = (torch.randn(shape, dtype=torch.bfloat16, device=device) * DEVIATION).cpu()
    return made.view(torch.uint8).numpy()


def _write(path: Path, shard: dict[str, tuple[int, ...]], numbers: dict[tuple[int, ...], np.ndarray]) -> None:
    """One file: the length of the header in 8 bytes, the header in JSON, the tensors back to back."""
    header, at = {}, 0
    for name, shape in shard.items():
        size = numbers[shape].nbytes
        header[name] = {"dtype": "BF16", "shape": [*shape], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shard.values():
            file.write(numbers[shape].data)


def documents(workload: Workload) -> np.ndarray:
    """As many documents as a step takes rows, each of a row's length and with the end token as its last,
    [rows of a step, length]: in whatever order they are taken, every step of both trainers sees them all."""
    random = np.random.default_rng(0)
    size = (workload.rows * workload.passes, workload.length)
    tokens = random.integers(len(SPECIAL), workload.config["vocab_size"], size)
    tokens[:, -1] = SPECIAL.index(END)
    return tokens


def write_documents(path: Path, tokens: np.ndarray) -> None:
    """As texts, of which the trainer makes the same tokens."""
    texts = (" ".join(f"w{token}" for token in row[:-1]) for row in tokens)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    main()
