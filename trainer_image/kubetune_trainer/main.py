"""`python -m kubetune_trainer`: read the run spec, run it, write the termination message, exit with its code.

Nothing heavy is imported before SIGTERM is handled.
"""

import argparse
import logging
import os
import traceback
from pathlib import Path

from pydantic import ValidationError

from kubetune.api.exitcodes import Reason, code_of
from kubetune.api.progress import TerminationMessage
from kubetune.api.runspec import RUN_SPEC_PATH, RunSpec
from kubetune.api.version import VERSION_TEXT
from kubetune_trainer import termination, warned
from kubetune_trainer.errors import InvalidSpec, known
from kubetune_trainer.imports import lean
from kubetune_trainer.log import banner_error, say
from kubetune_trainer.reading import cause, panicked
from kubetune_trainer.signals import Stop


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    stop = Stop().install()
    # Threads that spin while waiting for each other lose most of their time on a shared CPU: beside one other
    # busy process, they are 3 to 10 times slower on 2 cores. OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(
        prog="python -m kubetune_trainer", description="Carry out one training run."
    )
    parser.add_argument("--version", action="version", version=VERSION_TEXT)
    parser.add_argument("--run-spec", type=Path, default=Path(RUN_SPEC_PATH), help="run spec (JSON)")
    message = _carry_out(parser.parse_args(arguments).run_spec, stop)
    termination.write(message)
    if message.reason is Reason.SUCCEEDED:
        say("finished", text=message.message)
    else:
        banner_error(f"{message.reason}: {message.message}")
    return code_of(message.reason)


def _carry_out(path: Path, stop: Stop) -> TerminationMessage:
    outcome = None
    try:
        spec = _read(path)
        say("start", job=f"{spec.job.kind}/{spec.job.namespace}/{spec.job.name}", runSpec=spec.digest())
        # On import it warns about a missing optional package, which is left out because it downloads code.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        with lean():
            from kubetune_trainer.outcome import RunResult
            from kubetune_trainer.progress import Progress
            from kubetune_trainer.run import run

        stop.check()
        outcome = RunResult(Progress())
        warned.restart(outcome.progress.update)
        try:
            run(spec, outcome, stop)
        finally:
            outcome.progress.close()
        return outcome.message(Reason.SUCCEEDED, f"the artifact is at {spec.output.uri}/artifact")
    except BaseException as error:
        if not isinstance(error, Exception) and not panicked(error):
            raise
        reason, text = _judge(error)
        return (
            TerminationMessage(reason=reason, message=text)
            if outcome is None
            else outcome.message(reason, text)
        )


def _read(path: Path) -> RunSpec:
    try:
        return RunSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidSpec(f"the run spec {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidSpec(f"the run spec is invalid: {where}: {first['msg']}") from error


def _judge(error: BaseException) -> tuple[Reason, str]:
    ours = known(error)
    if ours is not None:
        return ours.reason, str(ours)
    traceback.print_exception(error)
    if panicked(error):  # Rust code reads texts and files, which are the same at every attempt
        return Reason.INVALID_SPEC, (
            f"a text or a file cannot be read ({cause(error)}): most likely the base model's tokenizer.json "
            "fails at a text of the data: restore it"
        )
    return Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"
