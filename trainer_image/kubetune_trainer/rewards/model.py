"""A reward model: a sequence classifier with one output, frozen, with its own tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.runspec import RunAdapter, RunSpec
from kubetune.artifacts.digest import MANIFEST
from kubetune_trainer.data import tokenizer as tokenizers
from kubetune_trainer.data.encode import encode, unchecked
from kubetune_trainer.data.formats import Prompt
from kubetune_trainer.data.prompts import answered
from kubetune_trainer.errors import BaseModelMismatch, InvalidSpec
from kubetune_trainer.evaluate import in_batches
from kubetune_trainer.methods import adapter_config
from kubetune_trainer.methods.adapter_config import CONFIG
from kubetune_trainer.methods.former import TYPES, WEIGHTS, manifest_of
from kubetune_trainer.model import loading
from kubetune_trainer.model.checking import check_finite
from kubetune_trainer.model.counting import context_of
from kubetune_trainer.model.digest import checked_digest
from kubetune_trainer.model.heads import CLASSIFIER
from kubetune_trainer.model_files import json_object
from kubetune_trainer.reading import cause, of_the_file, reading
from kubetune_trainer.rewards import Judge, Said
from kubetune_trainer.runtime import Precision, autocast


def check(judge: RunAdapter, base_digest: str) -> str:
    """Check that a reward model, if it is an adapter, belongs to a base; return its digest.

    Raises:
        BaseModelMismatch: it was trained on another base, or is not the one that was asked for.
        DataError: it is not there.
        InvalidSpec: its manifest is malformed.
    """
    digest = checked_digest("reward model", judge.path, judge.root, judge.digest)
    folder = Path(judge.path)
    if (folder / CONFIG).exists() and (folder / MANIFEST).exists():
        trained_on = manifest_of(folder, f"reward model {judge.uri}").base_model_digest
        if trained_on != base_digest:
            raise BaseModelMismatch(
                f"reward model {judge.uri} was trained on base {trained_on}, not on {base_digest}: name one "
                "of this base, or one with full weights"
            )
    return digest


def load(spec: RunSpec, judge: RunAdapter, precision: Precision, device: torch.device) -> Judge:
    """The reward model of a run.

    Raises:
        InvalidSpec: it cannot be loaded, or is no sequence classifier with one output.
    """
    folder = Path(judge.path)
    adapts = (folder / CONFIG).exists()
    if adapts and not (folder / WEIGHTS).exists():
        raise InvalidSpec(
            f"reward model {judge.uri}: {WEIGHTS} is missing: name a folder with a peft adapter"
        )
    base, what = (
        (Path(spec.model.path or ""), "base model") if adapts else (folder, f"reward model {judge.uri}")
    )
    tokenizer = tokenizers.load(base, what=what)
    options = {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    settings = {"num_labels": _outputs(judge, folder), "pad_token_id": tokenizer.pad_token_id}
    model, fresh = loading.load(base, options, tokenizer, 1, CLASSIFIER, settings if adapts else None, what)
    if adapts:
        model = _adapted(model, judge, folder)
    elif fresh:
        raise InvalidSpec(
            f"reward model {judge.uri} has no weights for {', '.join(fresh)}: name a model that stage reward "
            "made"
        )
    # A classifier reads the last token that is not this one, and rows are padded by the tokenizer. It is set
    # after loading, because the embeddings of some models count positions from the one in their files.
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.to(device).eval().requires_grad_(False)
    return _Judge(model, tokenizer, precision)


def _adapted(model: PreTrainedModel, judge: RunAdapter, folder: Path) -> PeftModel:
    """The base with the reward model's adapter and head.

    Raises:
        BaseModelMismatch: it does not fit the base.
        InvalidSpec: it is no LoRA adapter, holds no head or no finite numbers, or cannot be read.
    """
    what, remedy = f"reward model {judge.uri}", "name one that stage reward made of this base"
    found = json_object(folder / CONFIG, what).get("peft_type")
    if found != TYPES["lora"]:
        raise InvalidSpec(f"{what} is an adapter of type {found}: {remedy}")
    config = adapter_config.read(folder, what)
    config.task_type = CLASSIFIER.task
    adapter_config.resolve(config, model, what)
    with reading(f"{what}: {WEIGHTS}", remedy), safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = {*file.keys()}
    try:
        adapted: PeftModel = PeftModel.from_pretrained(model, folder, config=config)
        there = {*get_peft_model_state_dict(adapted, save_embedding_layers=False)}
    except Exception as error:  # from peft and torch, for other layers and shapes
        if not of_the_file(error):
            raise
        raise BaseModelMismatch(f"{what} does not fit the base: {cause(error)}: {remedy}") from error
    if saved != there:  # peft would leave what is missing as it was initialised
        strange = sorted(saved ^ there)[0]
        raise BaseModelMismatch(f"{what} has other layers than the base ({strange}, ...): {remedy}")
    check_finite(adapted.named_parameters(), f"{what}: its files")
    return adapted


def _outputs(judge: RunAdapter, folder: Path) -> int:
    with reading(f"reward model {judge.uri}: config.json", "restore it"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        outputs = int(config.num_labels)
    if outputs != 1:
        raise InvalidSpec(
            f"reward model {judge.uri} has {outputs} outputs, not one: name a model that stage reward made"
        )
    return outputs


class _Judge:
    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, precision: Precision
    ) -> None:
        self._model, self._tokenizer, self._precision = model, tokenizer, precision
        self._length = context_of(model) or 1 << 30

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[Said]) -> list[float]:
        """Rewards of whole texts, encoded as in the model's own training."""
        pairs = zip(prompts, answers, strict=True)
        texts = (unchecked(answered(p, said.text), self._tokenizer) for p, said in pairs)
        tokens = [e.tokens[-self._length :] for e in encode(texts, self._tokenizer)]
        rewards = [0.0] * len(tokens)
        for batch in in_batches(tokens, None):
            for i, reward in zip(batch, self._score([tokens[i].tolist() for i in batch]), strict=True):
                rewards[i] = reward
        return rewards

    def _score(self, batch: list[list[int]]) -> list[float]:
        padded = self._tokenizer.pad({"input_ids": batch}, padding_side="right", return_tensors="pt")
        device = self._model.device
        with autocast(device, self._precision):
            output = self._model(
                input_ids=padded["input_ids"].to(device), attention_mask=padded["attention_mask"].to(device)
            )
        rewards: list[float] = output.logits.float().squeeze(-1).tolist()
        return rewards
