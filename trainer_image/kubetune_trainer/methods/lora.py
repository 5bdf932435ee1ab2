"""Low-rank adapters on a frozen base, by peft. The result is a peft adapter."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.finetunejob import Lora
from kubetune.api.runspec import ArtifactFormat, RunSpec
from kubetune_trainer.data.tokenizer import save_template
from kubetune_trainer.errors import BaseModelMismatch, InvalidSpec
from kubetune_trainer.methods import adapter_config, experts, former, targets
from kubetune_trainer.methods.names import short
from kubetune_trainer.methods.targets import Targets
from kubetune_trainer.model.heads import CLASSIFIER, Head
from kubetune_trainer.reading import cause, of_the_file
from kubetune_trainer.runtime import Precision

FORMER: ArtifactFormat = "lora"


def base_options(spec: RunSpec, precision: Precision, device: torch.device) -> dict[str, Any]:
    """The frozen base is held in the dtype of the computation."""
    return {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}


def apply(model: PreTrainedModel, spec: RunSpec, head: Head, fresh: Sequence[str]) -> PeftModel:
    """Add fp32 adapters: the former one, or new ones. B of a new one starts at zero, so that the model at
    first answers as its base.

    Raises:
        InvalidSpec: no layer has one of the names; or see `former`.
        BaseModelMismatch: the former adapter does not fit the base.
    """
    if spec.adapter:
        config = former.config_of(spec.adapter)
    else:
        config = _new(spec.lora or Lora(), targets.choose(model, spec.lora or Lora(), head, fresh))
    config.task_type = head.task
    # Saved whole, in fp32: otherwise loading would give them other random numbers.
    config.modules_to_save = list(fresh) or None
    if spec.adapter:
        adapter_config.resolve(config, model, f"adapter {spec.adapter.uri}")
    try:
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    except Exception as error:  # peft's, for layers that are not there or cannot be adapted
        if not of_the_file(error):
            raise
        if spec.adapter:
            raise BaseModelMismatch(
                f"adapter {spec.adapter.uri} does not fit the base: {cause(error)}: name the base that it "
                "was trained on"
            ) from error
        raise InvalidSpec(f"lora: the base cannot be adapted: {cause(error)}") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # peft leaves modules_to_save in the base's dtype
    if spec.adapter:
        former.restore(adapted, spec.adapter)
    return adapted


def _new(lora: Lora, chosen: Targets) -> LoraConfig:
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.variant == "rslora",
        use_dora=lora.variant == "dora",
        target_modules=chosen.modules,
        target_parameters=chosen.parameters or None,
    )
    experts.register(config)
    return config


def export(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Write the adapter and its config, without paths; for a classifier also the model's config, which names
    the classes; and our chat template, if the base has none.

    Raises:
        InvalidSpec: see `check_changed`.
    """
    check_changed(model)
    model.save_pretrained(folder, save_embedding_layers=False)
    save_template(tokenizer, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": "base", "target_modules": _short(model)}
    weights = {n.replace(".base_layer", "") for n, _ in model.get_base_model().named_parameters()}
    config["target_parameters"] = short(model.base_model.targeted_parameter_names, weights) or None
    if config["task_type"] == CLASSIFIER.task:
        config["modules_to_save"] = sorted(set(config["modules_to_save"]))
        whole = copy.deepcopy(model.get_base_model().config)
        # Whoever loads the adapter says whether the base is held in 4 bits.
        vars(whole).pop("quantization_config", None)
        whole.save_pretrained(folder)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    changed = [*config["target_modules"], *(config["target_parameters"] or ())]
    return {"rank": config["r"], "target_modules": changed}


def shared_target(model: PeftModel) -> str | None:
    """An adapted layer that is both embeddings and output head, so that merging would change both."""
    base = model.get_base_model()
    if base.get_output_embeddings() is None or not getattr(base.config, "tie_word_embeddings", False):
        return None
    shared = (base.get_input_embeddings(), base.get_output_embeddings())
    names: list[str] = model.base_model.targeted_module_names
    return next((n for n in names if any(base.get_submodule(n) is module for module in shared)), None)


def check_changed(model: PeftModel) -> None:
    """Check that training has changed something.

    Raises:
        InvalidSpec: every B is still zero, so the adapter would change nothing.
    """
    zero = [n for n, p in model.named_parameters() if "lora_B" in n and not p.any()]
    if zero and len(zero) == sum("lora_B" in n for n, _ in model.named_parameters()):
        raise InvalidSpec(
            "nothing was learned: every gradient was zero, so the adapter is still all zero; where rewards "
            "are learned from (stages ppo and grpo), all answers may have got the same reward: change the "
            "reward, or raise rollout.temperature; else look for weights or labels that stand still"
        )


def _short(model: PeftModel) -> list[str]:
    """The last parts of the adapted layers' names if they choose the same layers, else the full names. peft
    writes the full names for a small model."""
    adapted = set(model.base_model.targeted_module_names)
    last = {name.rpartition(".")[2] for name in adapted}
    chosen = {name for name, _ in model.get_base_model().named_modules() if name.rpartition(".")[2] in last}
    return sorted(last if chosen == adapted else adapted)
