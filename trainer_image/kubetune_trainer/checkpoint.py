"""Checkpoints: complete or absent, verified before use, bound to one job and one run spec.

A checkpoint is a folder `step-<n>`: model.safetensors (trained weights), optimizer.safetensors, state.json
(position in the data, loss curve), stream.safetensors (the tensors of that position, if it has any) and
manifest.json with the SHA-256 of each. Random numbers need no state: every step seeds them from
(seed, step, rank), and the schedule is a function of the step.
"""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kubetune.api.progress import CheckpointStatus
from kubetune.api.runspec import RunSpec
from kubetune.artifacts.digest import digest_of, files_of
from kubetune.artifacts.manifest import Manifest, ManifestError, ManifestFile, read_manifest, write_manifest
from kubetune_trainer import optimizer as optimizers
from kubetune_trainer.clock import rfc3339
from kubetune_trainer.files import folder_to_be, remove, remove_leftovers
from kubetune_trainer.log import say
from kubetune_trainer.optimizer import Named

_NAME = re.compile(r"step-(\d+)")


@dataclass
class State:
    """Where a run stands, besides weights and optimizer."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens seen."""
    seconds: float = 0.0
    """Seconds spent in training steps, over all attempts."""
    stream: dict[str, Any] = field(default_factory=dict)
    """Position in the data."""
    fingerprint: str = ""
    """Digest of the data, to notice that it changed."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, training loss), thinned out."""
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    """(step, held-out loss)."""
    resumed: list[int] = field(default_factory=list)
    """Steps from which the run was resumed."""
    learned: bool = False
    """Whether any gradient was not zero."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, uri: str, spec: RunSpec) -> None:
        self._folder, self._uri, self._spec, self._digest = folder, uri, spec, spec.digest()
        self.newest: CheckpointStatus | None = None

    def save(self, state: State, parameters: Named, optimizer: torch.optim.Optimizer) -> CheckpointStatus:
        """Save, then drop the oldest beyond keepLast.

        Raises:
            StorageError: the folder cannot be written.
            Superseded: another trainer has taken over the folder.
        """
        final = self._folder / f"step-{state.step}"
        with folder_to_be(final) as folder:
            save_file({n: p.detach().contiguous() for n, p in parameters}, folder / "model.safetensors")
            save_file(optimizers.state(optimizer, parameters), folder / "optimizer.safetensors")
            tensors = {k: v for k, v in state.stream.items() if isinstance(v, torch.Tensor)}
            if tensors:
                save_file(tensors, folder / "stream.safetensors")
            numbers = {k: v for k, v in state.stream.items() if k not in tensors}
            (folder / "state.json").write_text(json.dumps(asdict(replace(state, stream=numbers))))
            manifest = self._manifest(folder)
            write_manifest(folder, manifest)
        self.newest = self._status(state.step, manifest)
        for old in self._steps()[self._spec.checkpoint.keep_last :]:
            remove(self._folder / f"step-{old}")
        return self.newest

    def load(self, parameters: Named, optimizer: torch.optim.Optimizer) -> State | None:
        """Restore the newest valid checkpoint, if any. Invalid ones are skipped with a log line."""
        for step in self._steps():
            folder = self._folder / f"step-{step}"
            try:
                manifest = self._verified(folder)
                state = self._restore(folder, parameters, optimizer)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                say("checkpoint", skipped=folder.name, why=str(error) or type(error).__name__)
                continue
            self.newest = self._status(step, manifest)
            return state
        return None

    def clean(self) -> None:
        """Remove what a killed attempt left half-written."""
        remove_leftovers(self._folder, "step-")

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (_NAME.fullmatch(p.name) for p in self._folder.iterdir() if p.is_dir())
        return sorted((int(m[1]) for m in found if m), reverse=True)

    def _manifest(self, folder: Path) -> Manifest:
        files = files_of(folder)
        return Manifest(
            format=self._spec.format,
            digest=digest_of(files),
            files=[ManifestFile(path=f.path, sha256=f.sha256, size_bytes=f.size) for f in files],
            job=self._spec.job,
            run_spec_digest=self._digest,
            created=rfc3339(),
        )

    def _verified(self, folder: Path) -> Manifest:
        manifest = read_manifest(folder)
        if manifest.job is None or manifest.job.uid != self._spec.job.uid:
            raise ManifestError("it belongs to another job")
        if manifest.run_spec_digest != self._digest:
            raise ManifestError("it was made under another run spec")
        if digest_of(files_of(folder)) != manifest.digest:
            raise ManifestError("its files are not those of its manifest: incomplete or damaged")
        return manifest

    def _restore(self, folder: Path, parameters: Named, optimizer: torch.optim.Optimizer) -> State:
        weights = load_file(folder / "model.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        state = State(**json.loads((folder / "state.json").read_text()))
        if (folder / "stream.safetensors").exists():
            state.stream |= load_file(folder / "stream.safetensors")
        if (there := set(weights)) != (wanted := {n for n, _ in parameters}):
            raise ValueError(f"its parameters differ from the model's: {sorted(there ^ wanted)[:3]}")
        with torch.no_grad():
            for name, parameter in parameters:
                parameter.copy_(weights[name])
        optimizers.restore(optimizer, parameters, moments)
        return state

    def _status(self, step: int, manifest: Manifest) -> CheckpointStatus:
        return CheckpointStatus(
            step=step,
            time=manifest.created or rfc3339(),
            uri=f"{self._uri}/step-{step}",
            digest=manifest.digest,
        )
