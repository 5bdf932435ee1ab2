"""Writes a tiny Llama, LoRA adapters for it, and what transformers and peft generate with them: the oracle.

Run as a script, since its libraries warn: `python make_models.py <folder>`. It writes `base/`, `one-v1/`,
`one-v2/`, `two/`, `other-base/` (same shapes, other weights), `foreign/` (an adapter of that, with manifest),
`wide/` (rank 32), and `answers.json`: {adapter or "base": token ids of the greedy answer to PROMPT}.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kubetune.artifacts.digest import files_of, folder_digest
from kubetune.artifacts.manifest import Manifest, ManifestFile, write_manifest

PROMPT = "What is a list?"
ANSWER_TOKENS = 12
SPECIAL = ["<pad>", "<s>", "</s>"]


def tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, and words that only a model can say: no text is encoded as one."""
    known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(known)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return made


def base_model(seed: int, vocabulary: int) -> LlamaForCausalLM:
    """vLLM's CPU attention needs heads of 32 or more."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def adapter(base: Path, folder: Path, *, seed: int, rank: int = 8, base_digest: str | None = None) -> None:
    """A LoRA adapter with random weights, large enough to change the answer."""
    torch.manual_seed(seed)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    if base_digest:
        files = [ManifestFile(path=f.path, sha256=f.sha256, size_bytes=f.size) for f in files_of(folder)]
        digest = folder_digest(folder)
        write_manifest(
            folder,
            Manifest(format="lora", digest=digest, files=files, base_model_digest=base_digest, rank=rank),
        )


def answer(base: Path, folder: Path | None) -> list[int]:
    """Token ids of the greedy answer."""
    model = LlamaForCausalLM.from_pretrained(base).eval()
    if folder:
        model = PeftModel.from_pretrained(model, folder).eval()
    ids = torch.tensor([tokenizer()(PROMPT)["input_ids"]])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False,
        eos_token_id=None,
    )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def main(root: Path) -> None:
    """Write everything."""
    for name, seed in (("base", 0), ("other-base", 1)):
        made = tokenizer()
        base_model(seed, len(made)).save_pretrained(root / name)
        made.save_pretrained(root / name)
    base, other = root / "base", root / "other-base"
    digest = folder_digest(base)
    adapter(base, root / "one-v1", seed=11, base_digest=digest)
    adapter(base, root / "one-v2", seed=12, base_digest=digest)
    adapter(base, root / "two", seed=13)
    adapter(base, root / "wide", seed=14, rank=32, base_digest=digest)
    adapter(other, root / "foreign", seed=15, base_digest=folder_digest(other))
    answers = {name: answer(base, root / name) for name in ("one-v1", "one-v2", "two")} | {
        "base": answer(base, None)
    }
    (root / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
