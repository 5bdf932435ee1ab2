"""Writes a model of SmolLM2-135M's shape with random weights, `base/`, and a LoRA adapter for it, `one-v1/`.

Run as a script, since its libraries warn: `python serving_model.py <folder>`. The shape is that of
HuggingFaceTB/SmolLM2-135M's config.json. Only the context is shorter.
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.engine.make_models import adapter, tokenizer

CONFIG = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=256, tie_word_embeddings=True, dtype="bfloat16",
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def main(root: Path) -> None:
    """Write both."""
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(root / "base")
    # Random weights answer with any token: mostly with one of these words of five letters.
    words = [f"w{number:04x}" for number in range(CONFIG.vocab_size - len(tokenizer()))]
    tokenizer(words).save_pretrained(root / "base")
    adapter(root / "base", root / "one-v1", seed=11)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
