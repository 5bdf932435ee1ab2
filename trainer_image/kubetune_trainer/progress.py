"""Live progress to the receiver, in the protocol of Kubeflow Trainer.

The three variables mean what `transformers.integrations.KubeflowCallback` takes them to mean:
KUBEFLOW_TRAINER_SERVER_URL is the address to POST to, _TOKEN the path of a file with the bearer token,
_CA_CERT the path of a CA certificate. A failure to report never disturbs the training.
"""

import json
import math
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from kubetune.api.progress import CheckpointStatus, Measurement, NamedValue, ProgressUpdate, TrainerStatus
from kubetune_trainer import warned
from kubetune_trainer.clock import rfc3339
from kubetune_trainer.log import duration, say
from kubetune_trainer.loop import StepReport

INTERVAL = 2.0
"""Seconds between two reports."""
TIMEOUT = 5.0
_WARN_EVERY = 60.0


class Progress:
    """The newest numbers, and a thread that reports them when they changed."""

    def __init__(self) -> None:
        self._url = os.environ.get("KUBEFLOW_TRAINER_SERVER_URL")
        self._metrics: dict[str, float] = {}
        self._percentage: int | None = None
        self._remaining: int | None = None
        self.checkpoint: CheckpointStatus | None = None
        self._changed = threading.Condition()
        self._dirty = self._closed = False
        self._warned = -_WARN_EVERY
        self._thread: threading.Thread | None = None
        if self._url:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def update(
        self,
        *,
        percentage: int | None = None,
        remaining: float | None = None,
        checkpoint: CheckpointStatus | None = None,
        **metrics: float,
    ) -> None:
        """Replace some numbers.

        Args:
            percentage: 0 to 99 while running.
            remaining: estimated seconds.
            checkpoint: the newest.
            metrics: any finite numbers.
        """
        with self._changed:
            self._metrics |= metrics
            self._percentage = self._percentage if percentage is None else percentage
            self._remaining = self._remaining if remaining is None else max(0, round(remaining))
            self.checkpoint = checkpoint or self.checkpoint
            self._dirty = True
            self._changed.notify()

    def status(self) -> TrainerStatus:
        """The newest numbers."""
        with self._changed:
            return TrainerStatus(
                progress_percentage=self._percentage,
                estimated_remaining_seconds=self._remaining,
                metrics=named(self._metrics),
                warnings=warned.given() or None,
                last_updated_time=rfc3339(),
            )

    def close(self) -> None:
        """Report what is left to report, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join(2 * TIMEOUT)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closed)
                if not self._dirty:
                    return
                self._dirty = False
            self._post()
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=INTERVAL)

    def _post(self) -> None:
        body = ProgressUpdate(trainer_status=self.status(), last_checkpoint=self.checkpoint).wire()
        try:
            # Read anew each time: the kubelet rotates the token. The address is the operator's.
            token = Path(os.environ.get("KUBEFLOW_TRAINER_SERVER_TOKEN", "")).read_text().strip()
            request = urllib.request.Request(  # noqa: S310
                self._url or "",
                data=json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                method="POST",
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=self._tls()):  # noqa: S310
                pass
        except (OSError, ValueError) as error:
            self._warn(str(error))
        except HTTPException as error:
            self._warn(f"the receiver does not answer in HTTP ({type(error).__name__}: {str(error).strip()})")

    def _warn(self, text: str) -> None:
        if time.monotonic() - self._warned >= _WARN_EVERY:
            self._warned = time.monotonic()
            say("warning", text=f"progress was not reported: {text}; training goes on")

    def _tls(self) -> ssl.SSLContext | None:
        authority = os.environ.get("KUBEFLOW_TRAINER_SERVER_CA_CERT")
        return ssl.create_default_context(cafile=authority) if authority else None


class StepReporter:
    """Tells the receiver about every report of a training loop, and the log about some."""

    LOG_SECONDS = 5.0

    def __init__(self, progress: Progress, total: int, evaluation_seconds: float) -> None:
        self._progress, self._total, self._evaluation = progress, total, evaluation_seconds
        self._said = -math.inf

    def __call__(self, step: StepReport) -> None:
        """Pass one report on."""
        remaining = (self._total - step.step) * step.seconds_per_step + self._evaluation
        self._progress.update(
            percentage=min(99, 100 * step.step // self._total),
            remaining=remaining,
            step=step.step,
            totalSteps=self._total,
            loss=step.loss,
            learningRate=step.learning_rate,
            gradNorm=step.grad_norm,
            tokensPerSecond=round(step.tokens_per_second, 1),
            tokensSeen=step.tokens,
        )
        now = time.monotonic()
        if now - self._said >= self.LOG_SECONDS or step.step == self._total:
            self._said = now
            say(
                "train", step=f"{step.step}/{self._total}", loss=step.loss, learningRate=step.learning_rate,
                gradNorm=step.grad_norm, tokensPerSecond=round(step.tokens_per_second),
                eta=duration(remaining),
            )  # fmt: skip


def named(numbers: dict[str, float]) -> list[NamedValue]:
    """Numbers as a Kubernetes status carries them; what is not finite is left out."""
    return [NamedValue(name=name, value=text) for name, text in _texts(numbers)]


def measurements(numbers: dict[str, float]) -> list[Measurement]:
    """Results of an evaluation as a Kubernetes status carries them; what is not finite is left out."""
    return [Measurement(name=name, value=text) for name, text in _texts(numbers)]


def _texts(numbers: dict[str, float]) -> Iterator[tuple[str, str]]:
    for name, value in numbers.items():
        if math.isfinite(value):
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)
