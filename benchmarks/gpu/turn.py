"""One turn: a few steps of training by one of the two trainers, timed.

python -m benchmarks.gpu.turn --side ours --workload clm-1b --base FOLDER --result FILE [--tiny]
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.gpu.base import documents, write_documents
from benchmarks.gpu.workloads import Workload, find

RATE = 1e-4
BETAS = (0.9, 0.95)
ALPHA = 32


class Clock:
    """When each optimizer step ended, on the GPU's own clock: nothing waits for it."""

    def __init__(self) -> None:
        self._marks: list[Any] = []

    def __enter__(self) -> "Clock":
        self._hook = register_optimizer_step_post_hook(self._mark)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _mark(self, *_: Any) -> None:
        if torch.cuda.is_available():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """From each step's end to the next one's."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["ours", "hf"], required=True)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    result = take(options.side, find(options.workload, small=options.tiny), options.base)
    options.result.write_text(json.dumps(result))


def take(side: str, workload: Workload, base: Path) -> dict[str, Any]:
    """Train and measure.

    Args:
        side: ours or hf.
        workload: what to train.
        base: folder of its base, see `base`.

    Returns:
        tokens_per_second of each timed step, the mean loss of all steps, peak_gib, seconds in all.
    """
    started = time.perf_counter()
    with Clock() as clock, tempfile.TemporaryDirectory(dir=base.parent) as out:
        loss = {"ours": ours, "hf": hf}[side](workload, base, Path(out))
        seconds = clock.seconds()
    timed = seconds[workload.warmup - 1 :]
    assert len(timed) == workload.steps, f"{len(timed)} steps, not {workload.steps}"
    speeds = [workload.tokens / s for s in timed]
    peak, took = peak_memory(), time.perf_counter() - started
    print(f"{side}: {statistics.median(speeds):,.0f} tokens/s, {peak:.1f} GiB, mean loss {loss:.4f}")
    return {
        "side": side, "workload": workload.name, "tokens_per_second": speeds, "loss": loss, "peak_gib": peak,
        "seconds": took,
    }  # fmt: skip


def peak_memory() -> float:
    """The most that PyTorch's tensors took on the GPU, loading included; without one, the process in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def ours(workload: Workload, base: Path, out: Path) -> float:
    """By our trainer, from the run spec on, up to where it would save the last checkpoint. The mean loss."""
    from kubetune_trainer import run as runs
    from kubetune_trainer.loop import TrainingLoop
    from kubetune_trainer.outcome import RunResult
    from kubetune_trainer.progress import Progress
    from kubetune_trainer.signals import Stop

    class Measured(Exception):
        """The steps are done: neither checkpoint nor artifact is written."""

    real = TrainingLoop.run

    def timed(loop: TrainingLoop) -> None:
        loop.save = lambda: None
        real(loop)
        raise Measured([loss for _, loss in loop.state.curve])

    write_documents(out / "data.jsonl", documents(workload))
    TrainingLoop.run = timed  # type: ignore[method-assign]
    try:
        runs.run(spec_of(workload, base, out), RunResult(Progress()), Stop())
    except Measured as measured:
        [losses] = measured.args
        return statistics.fmean(losses)
    finally:
        TrainingLoop.run = real  # type: ignore[method-assign]
    raise AssertionError("it did not train")


def spec_of(workload: Workload, base: Path, out: Path) -> Any:
    """The run spec: nothing held out, so that nothing is measured before and after training."""
    from kubetune.api.data import Evaluation
    from kubetune.api.finetunejob import Lora, Quantization
    from kubetune.api.runspec import JobIdentity, RunData, RunModel, RunOutput, RunSource, RunSpec
    from kubetune.api.training import Checkpoint, FineTuneTraining, PretrainTraining

    data = RunSource(
        name="data", uri="pvc://data", path=str(out / "data.jsonl"), root=str(out), format="text"
    )
    steps = workload.warmup + workload.steps
    settings: dict[str, Any] = {
        "max_steps": steps, "global_batch_size": workload.rows * workload.passes,
        "micro_batch_size": workload.rows, "learning_rate": RATE, "schedule": "constant", "precision": "bf16",
    }  # fmt: skip
    full = workload.method == "full"
    return RunSpec(
        job=JobIdentity(
            kind="PretrainJob" if full else "FineTuneJob", namespace="benchmark", name="ours", uid="ours"
        ),
        stage="pretrain" if full else "domain",
        model=RunModel(path=str(base), root=str(base.parent)),
        method=workload.method,
        lora=None if full else Lora(rank=workload.rank, alpha=ALPHA),
        quantization=Quantization() if workload.method == "qlora" else None,
        data=RunData(sources=[data], sequence_length=workload.length, validation_fraction=0),
        evaluation=Evaluation(),
        pretrain=PretrainTraining(**settings) if full else None,
        finetune=None if full else FineTuneTraining(**settings),
        checkpoint=Checkpoint(every_steps=steps),
        output=RunOutput(uri="pvc://out", path=str(out / "run")),
    )


def hf(workload: Workload, base: Path, out: Path) -> float:
    """By transformers' Trainer, set up for speed and the same arithmetic. The mean loss.

    That is bf16 under autocast, trained weights in fp32 and frozen ones in bf16, torch's attention, fused
    AdamW, nothing logged, saved or computed twice. peft's prepare_model_for_kbit_training is left out, since
    it would hold frozen embeddings and norms in fp32.
    """
    from transformers import Trainer, TrainingArguments, default_data_collator

    warnings.simplefilter("ignore")
    tokens = torch.from_numpy(documents(workload))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        str(out), max_steps=workload.warmup + workload.steps, per_device_train_batch_size=workload.rows,
        gradient_accumulation_steps=workload.passes, bf16=True, learning_rate=RATE,
        lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1], optim="adamw_torch_fused",
        weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, logging_strategy="no",
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(hf_model(workload, base), arguments, default_data_collator, rows)
    return float(trainer.train().training_loss)


def hf_model(workload: Workload, base: Path) -> torch.nn.Module:
    """As a user of transformers and peft would make it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if workload.method == "full":
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options: dict[str, Any] = {}
    if workload.method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        options["device_map"] = {"": "cuda:0" if torch.cuda.is_available() else "cpu"}
    frozen = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, **options)
    config = LoraConfig(r=workload.rank, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(frozen, config)


if __name__ == "__main__":
    main()
