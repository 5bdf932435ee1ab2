"""A LoRA adapter merged into its base (output.merge): full weights that answer as base and adapter together.

W + (alpha / r) B A (Hu et al. 2021, section 4.1) is computed in fp32 from the base's own files, however the
base was held while the adapter was trained, and saved in the dtype of these files.
"""

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer import model as models
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.heads import Head
from kubetune_trainer.log import say
from kubetune_trainer.methods import full, lora
from kubetune_trainer.objectives.prepared import Prepared
from kubetune_trainer.signals import Stop

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By their names in safetensors."""
ROWS, TOKENS = 8, 64
"""Of random tokens, on which the merged model is compared."""
SUMS = 1e-4
"""What the order of fp32 sums may change, relative to the logits."""
ROUNDINGS = 8
"""What rounding each weight may change, relative to the logits and in steps of the dtype: the errors of the
layers add up as their squares do."""


def check(trained: PeftModel, folder: Path) -> None:
    """Refuse before training what could not be merged after it.

    Args:
        trained: the base with its adapter.
        folder: of the base.

    Raises:
        InvalidSpec: the base is quantised, or shares the embeddings that are adapted with its output head.
    """
    own_dtype(folder)
    if name := lora.shared_target(trained):
        raise InvalidSpec(
            f"lora.targetModules names {name}, which is embeddings and output head of this base at once, "
            "so merged weights would change both: remove it, or output.merge"
        )


def own_dtype(folder: Path) -> torch.dtype:
    """What a base's files hold most of its numbers in.

    Raises:
        InvalidSpec: they are quantised, or of a type that no model is computed in.
    """
    remedy = "name the base as it was before, or remove output.merge"
    if "quantization_config" in json.loads((folder / "config.json").read_bytes()):
        raise InvalidSpec(f"the base model is quantised, so nothing can be merged into it: {remedy}")
    sizes: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    found = max(sizes, key=sizes.__getitem__)
    if found not in DTYPES:
        raise InvalidSpec(f"the base model's weights are {found}, not {', '.join(DTYPES)}: {remedy}")
    return DTYPES[found]


def export(
    trained: PeftModel, spec: RunSpec, prepared: Prepared, head: Head, folder: Path, stop: Stop
) -> dict[str, Any]:
    """Merge, save, and compare what was saved with base and adapter. It takes memory for the base in fp32.

    Raises:
        InvalidSpec: rounded to the base's dtype, the merged weights answer otherwise.
        RuntimeError: the adapter would change nothing.
        Terminated: asked to stop.
    """
    assert spec.model.path is not None
    source, length = Path(spec.model.path), spec.data.sequence_length
    lora.check_changed(trained)
    dtype, held = own_dtype(source), {"dtype": torch.float32}
    base, _ = models.load(source, held, prepared.tokenizer, length, head, prepared.settings)
    whole = _adapted(base, trained)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(prepared.tokenizer), (ROWS, min(TOKENS, length)), generator=generator)
    expected = _logits(whole, tokens)
    stop.check()
    full.export(whole.merge_and_unload(safe_merge=True).to(dtype), prepared.tokenizer, folder)
    del base, whole
    stop.check()
    saved, _ = models.load(folder, held, prepared.tokenizer, length, head)
    off = difference(_logits(saved, tokens), expected)
    allowed = tolerance(dtype)
    say("merge", dtype=str(dtype).removeprefix("torch."), difference=f"{off:.1e}", tolerance=f"{allowed:.1e}")
    if not off <= allowed:
        raise InvalidSpec(
            f"in {dtype} the merged weights answer otherwise than base and adapter do: their logits differ "
            f"by {off:.1e}, and {allowed:.1e} is allowed: remove output.merge, or name a base in float32"
        )
    return {}


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may be off, relative to their size, once each weight is rounded to a dtype."""
    return max(SUMS, ROUNDINGS * torch.finfo(dtype).eps)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference of logits, relative to their own, both [..., outputs]. What is added to all
    outputs alike changes no answer and does not count; of a single output it does."""
    if expected.shape[-1] > 1:
        found, expected = (x - x.mean(-1, keepdim=True) for x in (found, expected))
    return float((found - expected).norm() / expected.norm())


def _adapted(base: PreTrainedModel, trained: PeftModel) -> PeftModel:
    """The base with the very adapter that was trained."""
    whole = get_peft_model(base, copy.deepcopy(trained.peft_config["default"]))
    state = {n: t.detach().cpu() for n, t in _state(trained).items()}
    set_peft_model_state_dict(whole, state)
    there = _state(whole)
    if there.keys() != state.keys() or not all(torch.equal(there[n], state[n]) for n in state):
        raise RuntimeError("the adapter does not come over to the base as it is")
    return whole


def _state(model: PeftModel) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


def _logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with models.evaluating(model):
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits.double()
