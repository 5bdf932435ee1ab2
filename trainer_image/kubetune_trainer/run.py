"""One run from its spec to its artifact."""

import math
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune.api.progress import EvaluationStatus, PlanStatus, Sample
from kubetune.api.runspec import RunSpec
from kubetune.api.warnings import NOTHING_HELD_OUT, WarningReason, warmup_never_ends
from kubetune_trainer import artifact, baseline, endless, optimizer, packing, report, runtime, warned
from kubetune_trainer.checkpoint import Checkpoints, State
from kubetune_trainer.clock import rfc3339
from kubetune_trainer.data.rows import RowLike
from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.evaluate import Measured, evaluate, measure
from kubetune_trainer.files import remove
from kubetune_trainer.lmeval import tasks
from kubetune_trainer.log import duration, say
from kubetune_trainer.loop import TrainingLoop
from kubetune_trainer.methods import former, former_tokenizer, full, lora, merge, prompt_tuning, qlora
from kubetune_trainer.methods.method import Method
from kubetune_trainer.model import attention, loading, quantised
from kubetune_trainer.model.belongings import carry_over
from kubetune_trainer.model.checking import check_kind
from kubetune_trainer.model.counting import size
from kubetune_trainer.model.digest import checked_digest
from kubetune_trainer.model.heads import CAUSAL_LM, MASKED_LM
from kubetune_trainer.model.making import create
from kubetune_trainer.model.probing import check_causal, check_isolation, check_training
from kubetune_trainer.objectives import classification, clm, dpo, grpo, mlm, ppo, reward, sft
from kubetune_trainer.objectives.objective import Objective
from kubetune_trainer.objectives.prepared import Prepared, Surroundings
from kubetune_trainer.outcome import RunResult
from kubetune_trainer.progress import StepReporter, measurements
from kubetune_trainer.reading import reading
from kubetune_trainer.report.facts import Facts
from kubetune_trainer.rewards import model as reward_model
from kubetune_trainer.runtime import Precision
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources.localize import localize
from kubetune_trainer.warned import warn
from kubetune_trainer.writer import only_writer

OBJECTIVES: dict[str, Objective] = {
    "pretrain": clm,
    "mlm": mlm,
    "domain": clm,
    "sft": sft,
    "dpo": dpo,
    "reward": reward,
    "ppo": ppo,
    "grpo": grpo,
    "classification": classification,
}
METHODS: dict[str, Method] = {
    "full": full,
    "lora": lora,
    "qlora": qlora,
    "prompt-tuning": prompt_tuning,
}
LARGEST_MICRO_BATCH = 32
WATCHES = 10
"""How often the held-out loss is measured during training."""
WATCH_SHARE = 0.1
"""Tokens so measured per token trained on. A measured one costs a third of a trained one."""
LARGEST_WATCH = 128
"""Most rows measured at a time."""


def run(spec: RunSpec, outcome: RunResult, stop: Stop) -> None:
    """Carry out a run, or find that an earlier attempt did. Facts go into `outcome` as they become known.

    Raises:
        TrainerError: see `errors`.
    """
    artifact.check_output(spec)
    with only_writer(Path(spec.output.path), spec.output.uri, stop):
        done = artifact.finished(spec)
        if done is None:
            _Run(spec, outcome, stop).run()
        else:
            say("artifact", text="an earlier attempt finished this run")
            outcome.recall(done.report)
            outcome.artifact = artifact.status(spec, done)
        # The artifact is there: nothing needs the checkpoints any more.
        remove(_work(spec))
    outcome.progress.update(percentage=100, remaining=0)


@dataclass
class _Run:
    spec: RunSpec
    outcome: RunResult
    stop: Stop
    _made: tuple[PreTrainedModel, list[str]] | None = None

    def run(self) -> None:
        """All steps of the run, in order."""
        spec, stop, work = self.spec, self.stop, _work(self.spec)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        threads = runtime.configure()
        runtime.check_gpu()
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.hardware = runtime.describe(self.accelerator.device, threads)
        self.precision: Precision = runtime.resolve_precision(
            spec.training.precision, self.accelerator.device
        )
        self.objective, self.method = OBJECTIVES[spec.stage], METHODS[spec.method]
        stop.check()
        localize(spec, self.outcome.progress, stop)
        if spec.lm_eval:
            # Fail now if a task cannot be loaded; each evaluation loads it anew.
            tasks.load(spec.lm_eval)
            stop.check()

        base_digest = None
        if spec.model.path is not None:
            check_kind(Path(spec.model.path), spec.stage)
            quantised.check(Path(spec.model.path), spec.method, spec.quantization)
            base_digest = checked_digest("base model", spec.model.path, spec.model.root, spec.model.digest)
        self.digests = {"base model": base_digest} if base_digest else {}
        if spec.adapter and base_digest:
            self.digests["adapter"] = former.check(spec.adapter, base_digest, self.method.FORMER)
        if spec.reward and spec.reward.model and base_digest:
            self.digests["reward model"] = reward_model.check(spec.reward.model, base_digest)
        self.prepared = self._prepare(work)
        if spec.adapter:
            former_tokenizer.tell(spec.adapter, self.prepared.tokenizer)
        stop.check()
        base, fresh = self._base(self.prepared.tokenizer, self.prepared.settings)
        if spec.stage == "sft":
            endless.tell(base, self.prepared.tokenizer, [source.format for source in spec.data.sources])
        trained = self._trainable(base, fresh)
        self.model = self.objective.loss_model(base, spec, self.prepared, self.precision)
        self._plan(trained)
        if self.prepared.begin:
            around = Surroundings(self.accelerator, self.precision, stop, self.outcome.progress.update)
            self.prepared.begin(self.model, around)

        before = baseline.load(work, spec)
        if before is None:
            before = self._measure()
            baseline.save(work, spec, before)
        say("baseline", **before.metrics, took=duration(before.seconds))
        state = self._train(work, before)
        after = self._measure()
        say("evaluation", **after.metrics, took=duration(after.seconds))
        self._conclude(trained, before, after, state, base_digest)

    def _prepare(self, work: Path) -> Prepared:
        started = time.monotonic()
        prepared = self.objective.prepare(self.spec, work, self.stop, partial(self._packs, work))
        facts = prepared.data
        self.outcome.data, self.outcome.sources = facts, prepared.sources
        say(
            "data", documents=facts.documents, heldOut=facts.held_out, tokens=facts.tokens,
            truncated=facts.truncated or None, dropped=facts.dropped or None,
            took=duration(time.monotonic() - started),
        )  # fmt: skip
        self._warn(prepared)
        self.timings = {"preparation": time.monotonic() - started}
        return prepared

    def _warn(self, prepared: Prepared) -> None:
        """Warn about what is allowed but seldom meant."""
        settings, steps = self.spec.training, prepared.total_steps
        if not prepared.evaluation.examples:
            warn(WarningReason.NOTHING_HELD_OUT, NOTHING_HELD_OUT)
        epochs = self.spec.finetune.epochs if self.spec.finetune else None
        if epochs and steps < epochs:
            warn(
                WarningReason.FEW_STEPS,
                f"{epochs:g} epochs are {steps} steps of training.globalBatchSize "
                f"{settings.global_batch_size}: lower it to take more and smaller steps",
            )
        if text := warmup_never_ends(settings.warmup_steps, steps):
            warn(WarningReason.WARMUP_NEVER_ENDS, text)

    def _packs(self, work: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether documents share rows: by an earlier attempt, by the job, or by what the model allows."""
        spec = self.spec
        kept = packing.load(work, spec)
        if kept is None:
            kept = packing.decide(spec.data.packing, self._base(tokenizer, {})[0], self.precision)
            packing.save(work, spec, kept)
        return kept

    def _base(
        self, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model, made only once, and the modules that its files had no weights for."""
        if self._made is None:
            base, fresh = self._make(tokenizer, settings)
            base = base.to(self.accelerator.device)
            kind, method = base.config.model_type, self.spec.method
            with reading(f"a {kind} model with method {method}", "choose another method or another model"):
                self.attention = attention.choose(base, self.spec.data.sequence_length)
            if self.objective.HEAD is CAUSAL_LM:
                check_causal(base, self.precision)
            check_training(base, self.spec.data.sequence_length, self.objective.HEAD)
            self._made = base, fresh
        return self._made

    def _make(
        self, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
    ) -> tuple[PreTrainedModel, list[str]]:
        spec, head = self.spec, self.objective.HEAD
        fresh: list[str] = []
        torch.manual_seed(spec.training.seed)
        if spec.model.config is not None:
            base = create(spec.model.config, tokenizer, spec.data.sequence_length, head)
        elif spec.model.path is not None:
            device = self.accelerator.device
            options = self.method.base_options(spec, self.precision, device)
            if device.type != "cpu" and head is not MASKED_LM:
                # Loaded there directly, so that the pod needs no memory for a copy. A masked language model
                # is not: its positions are tried out, and on a GPU an index that is too large ends all.
                options = {"device_map": {"": device}} | options
            base, fresh = loading.load(
                Path(spec.model.path), options, tokenizer, spec.data.sequence_length, head, settings,
                whole=spec.format == "full",
            )  # fmt: skip
        else:
            raise InvalidSpec("the run spec names neither a config nor a base model")
        return base, fresh

    def _trainable(self, base: PreTrainedModel, fresh: list[str]) -> torch.nn.Module:
        trained = self.method.apply(base, self.spec, self.objective.HEAD, fresh)
        if self.spec.merge and self.spec.model.path:
            merge.check(trained, Path(self.spec.model.path))
        if self.prepared.packed:
            check_isolation(base, self.precision)  # the model now holds what the method put into it
        return trained

    def _plan(self, trained: torch.nn.Module) -> None:
        settings = self.spec.training
        plan = PlanStatus(
            method=self.spec.method,
            parameters=size(trained),
            trainable_parameters=size(trained, trainable=True),
            precision=self.precision,
            micro_batch_size=settings.micro_batch_size
            or _micro_batch(-(-settings.global_batch_size // self.accelerator.num_processes)),
            total_steps=self.prepared.total_steps,
            packing=self.prepared.packed if self.objective.HEAD is CAUSAL_LM else None,
            attention=self.attention,
        )
        self.outcome.plan = plan
        say("plan", **plan.wire(), hardware=self.hardware)
        self.outcome.progress.update(percentage=0, step=0, totalSteps=plan.total_steps)

    def _measure(self) -> Measured:
        return evaluate(self.model, self.prepared, self.spec, self.objective.samples, self.stop)

    def _train(self, work: Path, before: Measured) -> State:
        spec, settings, outcome, prepared = self.spec, self.spec.training, self.outcome, self.prepared
        assert outcome.plan is not None
        parameters = optimizer.trainable(self.model)
        adamw = optimizer.adamw(parameters, settings, prepared.betas)
        checkpoints = Checkpoints(work, f"{spec.output.uri}/checkpoints", spec)
        checkpoints.clean()
        state = checkpoints.load(parameters, adamw)
        if state is None:
            state = State(fingerprint=prepared.fingerprint)
        else:
            prepared.stream.restore(state.stream)
            state.resumed.append(state.step)
            outcome.progress.update(checkpoint=checkpoints.newest)
            say("resumed", step=state.step)
            if state.fingerprint != prepared.fingerprint:
                warn(
                    WarningReason.DATA_CHANGED,
                    "the data changed since the checkpoint: the run goes on with what is there now",
                )
                state.fingerprint = prepared.fingerprint

        def save() -> None:
            state.stream = prepared.stream.state()
            if self.accelerator.is_main_process:
                outcome.progress.update(checkpoint=checkpoints.save(state, parameters, adamw))
                say("checkpoint", step=state.step)
            self.accelerator.wait_for_everyone()

        watched = self._watched_rows()

        def watch() -> float:
            loss = measure(self.model, watched, prepared, self.stop)["loss"]
            outcome.progress.update(heldOutLoss=loss)
            return loss

        if watched and state.step == 0:
            state.evaluations.append((0, watch()))
        minutes = spec.checkpoint.every_minutes
        TrainingLoop(
            accelerator=self.accelerator,
            model=self.accelerator.prepare_model(self.model),
            parameters=parameters,
            optimizer=adamw,
            stream=prepared.stream,
            settings=settings,
            total_steps=prepared.total_steps,
            micro_batch=outcome.plan.micro_batch_size,
            collate=prepared.collate,
            state=state,
            stop=self.stop,
            save=save,
            save_steps=spec.checkpoint.every_steps or -(-prepared.total_steps // 10),
            save_seconds=60 * minutes if minutes else math.inf,
            watch=watch,
            watch_steps=-(-prepared.total_steps // WATCHES) if watched else prepared.total_steps + 1,
            report=StepReporter(outcome.progress, prepared.total_steps, before.seconds),
        ).run()
        if not state.learned:
            raise InvalidSpec(
                f"nothing was learned, since the gradient was zero at every step: {_nothing(spec)}"
            )
        return state

    def _watched_rows(self) -> list[RowLike]:
        """The held-out rows on which the loss is measured during training: a small share of the work."""
        assert self.outcome.plan is not None
        per_step = self.prepared.stream.mean_row * self.spec.training.global_batch_size
        budget = WATCH_SHARE * per_step * self.outcome.plan.total_steps / WATCHES
        rows: list[RowLike] = []
        tokens = 0
        for row in self.prepared.evaluation.rows[:LARGEST_WATCH]:
            tokens += len(row)
            if rows and tokens > budget:
                break
            rows.append(row)
        return rows

    def _conclude(
        self, trained: Any, before: Measured, after: Measured, state: State, base_digest: str | None
    ) -> None:
        assert self.outcome.plan is not None
        prompts = self.spec.evaluation.sample_prompts
        self.outcome.evaluation = EvaluationStatus(
            baseline=measurements(before.metrics),
            tuned=measurements(after.metrics),
            samples=[
                Sample(prompt=p, before=b, after=a)
                for p, b, a in zip(prompts, before.answers, after.answers, strict=True)
            ],
        )

        facts = Facts(
            spec=self.spec,
            plan=self.outcome.plan,
            data=self.prepared.data,
            evaluation=self.outcome.evaluation,
            sources=self.prepared.sources,
            curve=state.curve,
            held_out=state.evaluations,
            rewards=[(step, value) for step, value in state.stream.get("rewards", [])],
            tokens=state.tokens,
            timings=self.timings
            | {"baseline": before.seconds, "training": state.seconds, "evaluation": after.seconds},
            resumed=state.resumed,
            hardware=self.hardware,
            created=rfc3339(),
            evaluated=self.prepared.evaluation.examples,
            digests={"run spec": self.spec.digest()} | self.digests,
            versions={name: version(name) for name in self._libraries()},
            higher_is_better=after.higher_is_better,
            warnings=warned.given(),
            chat_template_added=getattr(self.prepared.tokenizer, "template_added", False),
        )

        def fill(folder: Path) -> dict[str, Any]:
            exported: dict[str, Any]
            if self.spec.merge:
                head = self.objective.HEAD
                exported = merge.export(trained, self.spec, self.prepared, head, folder, self.stop)
            else:
                exported = self.method.export(trained, self.prepared.tokenizer, folder)
            if self.spec.format == "full" and self.spec.model.path:
                carry_over(Path(self.spec.model.path), folder)
            report.write(folder, facts)
            return exported

        if self.accelerator.is_main_process:
            self.outcome.artifact = artifact.write(self.spec, self.outcome.report(), base_digest, fill)
            say("artifact", digest=self.outcome.artifact.digest, bytes=self.outcome.artifact.size_bytes)
        self.accelerator.wait_for_everyone()

    def _libraries(self) -> list[str]:
        return ["torch", "transformers", "peft", *(["lm-eval"] if self.spec.lm_eval else [])]


def _nothing(spec: RunSpec) -> str:
    """What to do if nothing was learned."""
    if spec.rollout:
        return (
            "all answers got the same reward: start from a tuned adapter, choose another "
            "reward, or raise rollout.temperature"
        )
    return "see whether the data hold anything but what the model says already"


def _work(spec: RunSpec) -> Path:
    """Folder for what outlives an attempt but not the run."""
    return Path(spec.output.path) / "checkpoints"


def _micro_batch(rows: int) -> int:
    """The largest divisor of a process's rows that is not above LARGEST_MICRO_BATCH."""
    return max(d for d in range(1, min(rows, LARGEST_MICRO_BATCH) + 1) if rows % d == 0)
