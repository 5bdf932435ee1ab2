"""Log ratios of pairs by the model before training: measured once, and kept beside the checkpoints for
resumed runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kubetune_trainer.data.pairs import Pairs
from kubetune_trainer.evaluate import in_batches
from kubetune_trainer.files import replace_file
from kubetune_trainer.log import say
from kubetune_trainer.model.counting import virtual_tokens
from kubetune_trainer.model.probing import evaluating
from kubetune_trainer.objectives.prepared import Collate
from kubetune_trainer.signals import Stop


def fill(
    path: Path,
    key: str,
    tables: Mapping[str, tuple[Pairs, Sequence[int]]],
    model: Any,
    collate: Collate,
    stop: Stop,
) -> None:
    """Fill in `Pairs.reference`, by the untrained model or from what an earlier attempt kept.

    Args:
        path: where it is kept.
        key: run and data that it belongs to.
        tables: by name, pairs and the indices of those that are needed.
        model: a loss model with `log_ratios`.
        collate: makes batches.
        stop: looked at between batches.

    Raises:
        StorageError: it cannot be written.
        Terminated: asked to stop.
    """
    kept = _load(path, key)
    for name, (pairs, needed) in tables.items():
        if kept is not None:
            pairs.reference[:] = kept[name].numpy()
            continue
        rows = [pairs[int(i)] for i in needed]
        with evaluating(model):
            for part in in_batches(rows, stop, virtual_tokens(model.model)):
                ratios = model.log_ratios(*collate([rows[i] for i in part], model.model.device))
                pairs.reference[[int(needed[i]) for i in part]] = ratios.cpu().numpy()
    if kept is None:
        say("reference", pairs=sum(len(needed) for _, needed in tables.values()))
        tensors = {name: torch.from_numpy(pairs.reference) for name, (pairs, _) in tables.items()}
        replace_file(path, save(tensors, metadata={"key": key}))


def _load(path: Path, key: str) -> dict[str, torch.Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None
