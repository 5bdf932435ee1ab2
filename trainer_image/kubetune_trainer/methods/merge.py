"""A LoRA adapter merged into its base (output.merge): full weights that answer as base and adapter together.

W + (alpha / r) B A (Hu et al. 2021, section 4.1) is computed in fp32 from the base's own files, however the
base was held while the adapter was trained, and saved as each tensor is in these files.
"""

import copy
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.save_and_load import set_peft_model_state_dict
from transformers import PreTrainedModel

from kubetune.api.runspec import RunSpec
from kubetune_trainer import model_files
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.log import say
from kubetune_trainer.methods import full, lora
from kubetune_trainer.model import loading
from kubetune_trainer.model.heads import Head
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.objectives.prepared import Prepared
from kubetune_trainer.signals import Stop

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By their names in safetensors."""
ROWS, TOKENS = 8, 64
"""Shape of the random tokens on which the merged model is compared."""
SUMS = 1e-4
"""Most that another order of fp32 sums may change the logits, relative to their norm."""
ROUNDINGS = 8
"""Most that rounding each weight may change the logits, relative to their norm and in eps of the dtype: the
errors of the layers add up in squares."""


def check(trained: PeftModel, folder: Path) -> None:
    """Refuse before training what could not be merged after it.

    Args:
        trained: the base with its adapter.
        folder: of the base.

    Raises:
        InvalidSpec: the base is quantised, or shares the embeddings that are adapted with its output head.
    """
    own_dtypes(folder)
    if name := lora.shared_target(trained):
        raise InvalidSpec(
            f"lora.targetModules names {name}, which is both embeddings and output head of this base, "
            "so merged weights would change both: remove it, or output.merge"
        )


def own_dtypes(folder: Path) -> tuple[torch.dtype, dict[str, torch.dtype]]:
    """The dtype of most numbers in a base's files, and that of each tensor there, if it is one of DTYPES.
    Some bases keep norms or routers in fp32.

    Raises:
        InvalidSpec: they are quantised, or most are of another dtype.
    """
    remedy = "name the base as it was before, or remove output.merge"
    config = model_files.json_object(folder / model_files.CONFIG, "the base model cannot be merged into")
    if "quantization_config" in config:
        raise InvalidSpec(f"the base model is quantised, so nothing can be merged into it: {remedy}")
    sizes: Counter[str] = Counter()
    each: dict[str, torch.dtype] = {}
    for name, dtype, shape in model_files.tensors(folder, "base model"):
        sizes[dtype] += math.prod(shape)
        if dtype in DTYPES:
            each[name] = DTYPES[dtype]
    found = max(sizes, key=sizes.__getitem__, default="none")
    if found not in DTYPES:
        raise InvalidSpec(f"the base model's weights are {found}, not {', '.join(DTYPES)}: {remedy}")
    return DTYPES[found], each


def cast(model: PreTrainedModel, most: torch.dtype, each: Mapping[str, torch.dtype]) -> set[torch.dtype]:
    """Convert each tensor of a model to the dtype that `each` has for its name, others to `most`. In the
    files of a model without its head, names lack their first part.

    Returns:
        The dtypes of the parameters.
    """
    inside = f"{model.base_model_prefix}."
    wanted: dict[int, torch.dtype] = {}
    held = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in held:
        own = each.get(name) or each.get(name.removeprefix(inside)) or each.get(inside + name)
        if own is not None:
            wanted[id(tensor)] = own
    for _, tensor in held:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(wanted.get(id(tensor), most))
    return {p.dtype for p in model.parameters() if p.is_floating_point()}


def export(
    trained: PeftModel, spec: RunSpec, prepared: Prepared, head: Head, folder: Path, stop: Stop
) -> dict[str, Any]:
    """Merge, save, and compare what was saved with base and adapter. It takes memory for the base in fp32.

    Raises:
        InvalidSpec: rounded to the base's dtype, the merged weights give other logits; or the adapter would
            change nothing.
        Terminated: asked to stop.
    """
    assert spec.model.path is not None
    source, length = Path(spec.model.path), spec.data.sequence_length
    lora.check_changed(trained)
    (dtype, each), held = own_dtypes(source), {"dtype": torch.float32}
    base, _ = loading.load(source, held, prepared.tokenizer, length, head, prepared.settings)
    whole = _adapted(base, trained)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(len(prepared.tokenizer), (ROWS, min(TOKENS, length)), generator=generator)
    expected = _logits(whole, tokens)
    stop.check()
    merged = whole.merge_and_unload(safe_merge=True)
    used = cast(merged, dtype, each)
    full.export(merged, prepared.tokenizer, folder)
    _name_dtype(folder, dtype)
    del base, whole, merged
    stop.check()
    saved, _ = loading.load(folder, held, prepared.tokenizer, length, head)
    off = difference(_logits(saved, tokens), expected)
    allowed = max(tolerance(d) for d in used)
    say("merge", dtype=str(dtype).removeprefix("torch."), difference=f"{off:.1e}", tolerance=f"{allowed:.1e}")
    if not off <= allowed:
        raise InvalidSpec(
            f"in {dtype} the merged weights do not answer as base and adapter do: their logits differ "
            f"by {off:.1e}, and {allowed:.1e} is allowed: remove output.merge, or name a base in float32"
        )
    return {}


def _name_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Name the dtype in the config. transformers names that of the first tensor, and loads all in it."""
    path = folder / model_files.CONFIG
    config = json.loads(path.read_bytes()) | {"dtype": str(dtype).removeprefix("torch.")}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may be off, relative to their size, once each weight is rounded to a dtype."""
    return max(SUMS, ROUNDINGS * torch.finfo(dtype).eps)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference of logits, relative to that of the expected ones, both [..., outputs].

    A number added to all outputs changes no answer and does not count, unless there is only one output.
    """
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
    # Some models keep no cache of the kind that transformers makes by default.
    no_cache = {"use_cache": False} if getattr(model.config, "use_cache", False) else {}
    with evaluating(model):
        logits: torch.Tensor = model(input_ids=tokens, **no_cache).logits
    return logits.double()
