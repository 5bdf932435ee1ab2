"""Tokens per second of our trainer and of TRL's SFTTrainer on the same model, data, precision and batches.

    python benchmarks/trainer_vs_trl.py [--method lora|full] [--no-packing | --trl-packing bfd|wrapped]
                                        [--repetitions 3] [--examples 600] [--data alpaca.json]

Both train one epoch of the same examples with AdamW in bf16, in processes of their own that take turns, so
that a busy machine is busy for both. With lora both keep the frozen base in bf16, as TRL's users are told.
TRL's own packing, bfd, makes one row of each batch; without FlashAttention, as on a CPU, each token then
attends over all of it. Its other one, wrapped, keeps the rows apart but cuts examples in two and lets those
of a row see each other: less work than ours, and not the same training.
Counted is the time from the first step to the last, and the tokens of the examples, not the padding. Prints a
row for benchmarks/RESULTS.md: medians, and in brackets the least and the most.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROWS, LENGTH = 16, 256
MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=["lora", "full"], default="full")
    parser.add_argument("--no-packing", action="store_true")
    parser.add_argument("--trl-packing", choices=["bfd", "wrapped"], default="bfd")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument(
        "--data", type=Path, help="records of Alpaca's shape (JSON); default: the standard library"
    )
    parser.add_argument("--worker", choices=["ours", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        packing = None if options.no_packing else options.trl_packing
        work = {"ours": ours, "trl": trl}[options.worker]
        seconds, steps = work(options.folder, options.method, packing)
        print(json.dumps({"seconds": seconds, "steps": steps}))
        return
    with tempfile.TemporaryDirectory() as folder:
        data, source = records(options.data, options.examples)
        tokens = prepare(Path(folder), data)
        print(f"{source}: {len(data)} examples, {tokens:,} tokens; {load()}", flush=True)
        compare(Path(folder), tokens, options)


def compare(folder: Path, tokens: int, options: argparse.Namespace) -> None:
    """Run both in turn and print what came out."""
    command = [sys.executable, __file__, "--folder", str(folder), "--method", options.method]
    command += ["--no-packing"] * options.no_packing + [f"--trl-packing={options.trl_packing}"]
    speeds: dict[str, list[float]] = {"ours": [], "trl": []}
    for repetition in range(options.repetitions):
        for name in ("ours", "trl") if repetition % 2 == 0 else ("trl", "ours"):
            # The same waiting policy for both: OpenMP threads that spin suffer on a shared machine.
            environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                [*command, "--worker", name], env=environment, stdout=subprocess.PIPE, check=True
            )
            result = json.loads(done.stdout.splitlines()[-1])
            speeds[name].append(tokens / result["seconds"])
            print(f"{name}: {speeds[name][-1]:,.0f} tokens/s in {result['steps']} steps", flush=True)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["trl"], strict=True)]
    packing = "not packed" if options.no_packing else f"packed (TRL: {options.trl_packing})"
    cells = [spread(speeds["ours"], ",.0f"), spread(speeds["trl"], ",.0f"), spread(ratios, ".2f")]
    print(load())
    print(f"| {options.method}, {packing} | {' | '.join(cells)} |")


def spread(values: list[float], form: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def load() -> str:
    """How busy the machine is."""
    return "load average over 1, 5, 15 minutes: " + ", ".join(f"{n:.1f}" for n in os.getloadavg())


def records(path: Path | None, count: int) -> tuple[list[dict[str, Any]], str]:
    """Alpaca's or, where no file is named, the standard library's, as conversations; and what they are."""
    if path:
        source = path.name
        pairs = [
            (r["instruction"] + "\n\n" + r.get("input", ""), r["output"])
            for r in json.loads(path.read_text())
        ]
    else:
        from pydoc_data.topics import topics

        source = "pydoc_data.topics, repeated"
        pairs = [(f"Explain {name}.", text) for name, text in topics.items()] * 20
    conversations = [
        {
            "prompt": [{"role": "user", "content": q.strip()}],
            "completion": [{"role": "assistant", "content": a}],
        }
        for q, a in pairs[:count]
    ]
    return conversations, source


def prepare(folder: Path, data: list[dict[str, Any]]) -> int:
    """Write model, tokenizer and data. Returns the tokens of all examples."""
    import torch

    from kubetune_trainer.data.tokenizer_training import train
    from kubetune_trainer.model.making import create

    turns = [r["prompt"] + r["completion"] for r in data]
    tokenizer = train((m["content"] for t in turns for m in t), 4096)
    torch.manual_seed(0)
    create(MODEL, tokenizer, LENGTH).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "data.jsonl").write_text("".join(json.dumps({"messages": t}) + "\n" for t in turns))
    (folder / "trl.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    texts = tokenizer.apply_chat_template(turns, tokenize=False)
    return sum(min(LENGTH, len(ids)) for ids in tokenizer(texts)["input_ids"])


def ours(folder: Path, method: str, packing: str | None) -> tuple[float, int]:
    """One epoch by our trainer, from the run spec on."""
    from kubetune.api.data import Evaluation
    from kubetune.api.finetunejob import Lora
    from kubetune.api.runspec import JobIdentity, RunData, RunModel, RunOutput, RunSource, RunSpec
    from kubetune.api.training import Checkpoint, FineTuneTraining
    from kubetune_trainer import run as runs
    from kubetune_trainer.loop import TrainingLoop
    from kubetune_trainer.outcome import RunResult
    from kubetune_trainer.progress import Progress
    from kubetune_trainer.signals import Stop

    timed: dict[str, Any] = {}
    real = TrainingLoop.run

    def measured(loop: TrainingLoop) -> None:
        loop.watch_steps = loop.save_steps = loop.total_steps + 1
        loop.save = lambda: None
        started = time.perf_counter()
        real(loop)
        timed.update(seconds=time.perf_counter() - started, steps=loop.state.step)

    TrainingLoop.run = measured  # type: ignore[method-assign]
    data = RunSource(
        name="data", uri="pvc://data", path=str(folder / "data.jsonl"), root=str(folder), format="messages"
    )
    with tempfile.TemporaryDirectory() as out:
        spec = RunSpec(
            job=JobIdentity(kind="FineTuneJob", namespace="benchmark", name="ours", uid="ours"),
            stage="sft",
            model=RunModel(path=str(folder / "base"), root=str(folder)),
            method=method,
            lora=Lora(rank=16, alpha=32) if method == "lora" else None,
            data=RunData(
                sources=[data], sequence_length=LENGTH, packing=bool(packing), validation_fraction=0
            ),
            evaluation=Evaluation(),
            finetune=FineTuneTraining(
                epochs=1, global_batch_size=ROWS, micro_batch_size=ROWS, learning_rate=1e-3, precision="bf16"
            ),
            checkpoint=Checkpoint(),
            output=RunOutput(uri="pvc://out", path=out),
        )
        runs.run(spec, RunResult(Progress()), Stop())
    return timed["seconds"], timed["steps"]


def trl(folder: Path, method: str, packing: str | None) -> tuple[float, int]:
    """One epoch by TRL, set up for speed: no activation checkpointing, hardly any logging, no saving."""
    warnings.simplefilter("ignore")
    import torch
    from datasets import disable_progress_bars, load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from kubetune_trainer.runtime import cpus

    disable_progress_bars()
    torch.set_num_threads(cpus())
    data = str(folder / "trl.jsonl")
    dtype = torch.bfloat16 if method == "lora" else torch.float32
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    clock: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **options: Any) -> None:
            clock["begin"] = time.perf_counter()

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            clock["end"] = time.perf_counter()

    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype),
            args=SFTConfig(
                out, num_train_epochs=1, per_device_train_batch_size=ROWS, learning_rate=1e-3, bf16=True,
                max_length=LENGTH, packing=bool(packing), packing_strategy=packing or "bfd",
                gradient_checkpointing=False, logging_steps=1000, save_strategy="no",
                report_to="none", use_cpu=True, disable_tqdm=True, completion_only_loss=True,
            ),
            train_dataset=load_dataset("json", data_files=data, split="train", cache_dir=out),
            processing_class=AutoTokenizer.from_pretrained(folder / "base"),
            peft_config=adapter if method == "lora" else None,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return clock["end"] - clock["begin"], trainer.state.global_step


if __name__ == "__main__":
    main()
