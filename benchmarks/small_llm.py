"""What a language model of a few million parameters learns from real data, stage by stage.

    python benchmarks/small_llm.py --data <folder with c4_demo.jsonl, tinyshakespeare.txt,
                                           alpaca_en_demo.json, sst2_train.tsv, sst2_dev.tsv>

A Llama is pretrained on web text, Shakespeare and film reviews, then tuned on Alpaca by LoRA; and a reward
model on the same base learns to prefer the friendlier of two reviews (SST-2, Socher et al. 2013). Prints rows
for benchmarks/RESULTS.md.
"""

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's main does, before torch is there

from measured_run import carry_out

from kubetune.api.data import Evaluation
from kubetune.api.finetunejob import Lora
from kubetune.api.pretrainjob import TokenizerTraining
from kubetune.api.runspec import JobIdentity, RunData, RunModel, RunOutput, RunSource, RunSpec
from kubetune.api.training import Checkpoint, FineTuneTraining, PretrainTraining

CONFIG = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip
LENGTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, dev = (reviews(options.data / f"sst2_{part}.tsv") for part in ("train", "dev"))
        texts = written(folder / "reviews.jsonl", [{"text": t} for label in train for t in label])
        base = trained(
            folder / "base", options.seed, stage="pretrain", method="full", model=RunModel(config=CONFIG),
            tokenizer=TokenizerTraining(vocab_size=4096),
            data=data(
                source(options.data / "c4_demo.jsonl", "text", weight=0.4),
                source(options.data / "tinyshakespeare.txt", "text", weight=0.2),
                source(texts, "text", weight=0.4),
                held_out=0.05,
            ),
            pretrain=PretrainTraining(
                max_steps=600, global_batch_size=8, learning_rate=1e-3, warmup_steps=50, seed=options.seed
            ),
        )  # fmt: skip
        model = RunModel(path=str(base), root=str(base))
        trained(
            folder / "alpaca", options.seed, stage="sft", method="lora", lora=Lora(rank=16, alpha=32),
            model=model, data=data(source(options.data / "alpaca_en_demo.json", "alpaca"), held_out=0.1),
            finetune=FineTuneTraining(
                epochs=2, global_batch_size=8, learning_rate=2e-3, warmup_steps=10, seed=options.seed
            ),
        )  # fmt: skip
        measured = source(written(folder / "dev.jsonl", pairs(dev, options.seed)), "preference")
        trained(
            folder / "reward", options.seed, stage="reward", method="lora", lora=Lora(rank=16, alpha=32),
            model=model,
            data=data(source(written(folder / "train.jsonl", pairs(train, options.seed)), "preference")),
            evaluation_source=measured,
            finetune=FineTuneTraining(
                epochs=2, global_batch_size=32, learning_rate=2e-3, warmup_steps=10, seed=options.seed
            ),
        )  # fmt: skip


def reviews(path: Path) -> tuple[list[str], list[str]]:
    """Unfriendly and friendly sentences."""
    lines = [line.rsplit("\t", 1) for line in path.read_text().splitlines()]
    return tuple([text for text, label in lines if label == number] for number in "01")  # type: ignore[return-value]


def pairs(texts: tuple[list[str], list[str]], seed: int) -> list[dict[str, str]]:
    """Each friendly sentence with an unfriendly one."""
    worse, better = (random.Random(seed).sample(part, len(part)) for part in texts)
    return [{"prompt": "The film: ", "chosen": b, "rejected": w} for b, w in zip(better, worse, strict=False)]


def data(*sources: RunSource, held_out: float = 0.0) -> RunData:
    return RunData(
        sources=list(sources), sequence_length=LENGTH, packing=sources[0].format != "preference",
        validation_fraction=held_out,
    )  # fmt: skip


def written(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def source(path: Path, form: Any, weight: float = 1.0) -> RunSource:
    return RunSource(
        name=path.stem.replace("_", "-"), uri=f"pvc://data/{path.name}", path=str(path),
        root=str(path.parent), format=form, weight=weight,
    )  # fmt: skip


def trained(folder: Path, seed: int, **what: Any) -> Path:
    """One run; returns its artifact."""
    job = JobIdentity(kind="FineTuneJob", namespace="benchmark", name=folder.name, uid=folder.name)
    output = RunOutput(uri=f"pvc://out/{folder.name}", path=str(folder))
    spec = RunSpec(
        job=job, evaluation=Evaluation(max_examples=1000), checkpoint=Checkpoint(), output=output, **what
    )
    found = carry_out(spec)
    changes = ", ".join(f"{name} {found.before[name]:.3f} -> {v:.3f}" for name, v in found.after.items())
    print(
        f"| {folder.name}, {spec.method}, {found.plan.total_steps} steps, "
        f"{found.plan.trainable_parameters:,} parameters trained, seed {seed} | {changes} | "
        f"{found.seconds:.0f} s |",
        flush=True,
    )
    return folder / "artifact"


if __name__ == "__main__":
    main()
