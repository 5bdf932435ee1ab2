"""`make demo`: from kubectl apply to a served adapter on a real cluster. Fails if a claim does not hold."""

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from dev import stack
from dev.cluster.report import ClusterError
from dev.demo import chat, facts, namespace, watch
from dev.demo.namespace import NotOurs
from dev.demo.screen import Screen
from dev.kubectl import Kubectl, KubectlError, wait_for

NAMESPACE = "quickstart"
EXAMPLES = Path("examples/quickstart")
OUT = Path("out/demo")
PROMPTS = ("What is is_alive?", "What is ConnectionResetError?", "What is _spawn?")
LOSS_MARGIN = {"stdlib-base": 3.0, "scope": 3.0, "kind": 2.0, "kind-v2": 3.5}
"""Nats by which each job's held-out loss must fall."""


EXPECTED = (ClusterError, KubectlError, NotOurs, facts.ClaimFailed, chat.NotServed, TimeoutError)
"""What can go wrong without a defect in the demo: each says in a sentence what happened."""


def main() -> int:
    """Tell the story; returns the exit status."""
    screen = Screen()
    try:
        with ExitStack() as at_the_end:
            with screen.step("Set-up: the cluster, our images, the chart"):
                running = at_the_end.enter_context(stack.running())
                kubectl = at_the_end.enter_context(namespace.own(running.kubectl, NAMESPACE))
            if not is_told(screen, kubectl):
                return 1
            with screen.step("Clean-up: what was not there before"):
                at_the_end.close()
    except EXPECTED as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    screen.say()
    screen.times()
    return 0


def is_told(screen: Screen, kubectl: Kubectl) -> bool:
    """Tell it. What went wrong is said here and now, so that no trouble in the clean-up takes its place."""
    try:
        tell(screen, kubectl)
    except EXPECTED as error:
        watch.diagnose(kubectl)
        print(f"\nThe demo failed: {error}", file=sys.stderr, flush=True)
        return False
    except Exception:
        watch.diagnose(kubectl)
        raise
    return True


def tell(screen: Screen, kubectl: Kubectl) -> None:
    """The steps, in order."""
    with screen.step("Data: a corpus and instruction pairs, written by a Job to the claim `models`"):
        show(screen, kubectl, "apply", "-k", str(EXAMPLES / "data"))
        kubectl("wait", "--for=condition=Complete", "job/stdlib-data", "--timeout=600s")
        print(indent(kubectl("logs", "job/stdlib-data")))

    with screen.step("Apply: a base, two adapters that wait for it, and the set that serves them"):
        files = [EXAMPLES / f"{name}.yaml" for name in ("base", "scope", "kind", "adapterset")]
        show(screen, kubectl, "apply", *(f"-f={file}" for file in files))

    with screen.step("Train: the base first, then both adapters, while the engine starts"):
        watch.until_complete(screen, kubectl, "pretrainjob/stdlib-base", patience=300)
        watch.until_complete(screen, kubectl, "finetunejob/scope", "finetunejob/kind", patience=300)
        for kind, name in (
            ("pretrainjob", "stdlib-base"),
            ("finetunejob", "scope"),
            ("finetunejob", "kind"),
        ):
            screen.say(facts.require_lower_loss(kubectl.get(kind, name), LOSS_MARGIN[name]))

    with screen.step("Serve: one engine, one base, two adapters"):
        watch.until_ready(screen, kubectl, "adapterset/stdlib", timeout=900)
        show(screen, kubectl, "get", "kubetune")
        with kubectl.port_forward("service/stdlib", 8000) as url:
            screen.say(f"GET /v1/models: {', '.join(chat.models(url))}")
            first_answers = compare(screen, url)

    with screen.step("Improve: a better version of `kind` goes live while the engine keeps running"):
        improve(screen, kubectl, first_answers)

    with screen.step("Results: measured by the jobs themselves on held-out examples"):
        jobs = [
            kubectl.get("pretrainjob", "stdlib-base"),
            *(kubectl.get("finetunejob", n) for n in ("scope", "kind", "kind-v2")),
        ]
        rows = [
            [job["metadata"]["name"], name, f"{before:.3f}", f"{after:.3f}"]
            for job in jobs
            for name, before, after in facts.before_after(job)
        ]
        screen.table(["JOB", "METRIC", "BEFORE", "AFTER"], rows)
        for job in jobs:
            screen.say(f"{job['metadata']['name']}: {save_report(kubectl, job)}")


def compare(screen: Screen, url: str) -> dict[str, str]:
    """The same prompts to the base and to each adapter; returns what `kind` said to each."""
    said = {}
    for prompt in PROMPTS:
        answers = {model: chat.ask(url, model, prompt).text for model in ("stdlib-base", "scope", "kind")}
        screen.say(prompt)
        screen.table(["MODEL", "ANSWER"], [[model, answer] for model, answer in answers.items()])
        said[prompt] = answers["kind"]
    return said


def improve(screen: Screen, kubectl: Kubectl, before: dict[str, str]) -> None:
    """Apply the better version and wait until it answers; the engine must be the same process throughout."""
    engine = watch.engine_identity(kubectl, "stdlib")
    old = watch.loaded_name(kubectl, "stdlib", "kind")
    show(screen, kubectl, "apply", "-f", str(EXAMPLES / "kind-v2.yaml"))
    job = watch.until_complete(screen, kubectl, "finetunejob/kind-v2", patience=300, every=0.5)[0]
    with kubectl.port_forward("service/stdlib", 8000) as url:
        wait_for(
            "the new version of `kind` going live",
            lambda: watch.serves(kubectl, "stdlib", "kind", job["status"]["artifact"]["digest"]),
            timeout=120,
            every=0.1,
        )
        answers = {prompt: chat.ask(url, "kind", prompt) for prompt in PROMPTS}
        facts.require_version(job, [answer.version for answer in answers.values()])
    lag = time.time() - watch.seconds(job["status"]["completionTime"])
    screen.say(f"from Complete to the last of {len(PROMPTS)} answers by the new version: at most {lag:.1f} s")
    screen.say(f"engine's name of the adapter: {old} -> {watch.loaded_name(kubectl, 'stdlib', 'kind')}")
    screen.say(facts.require_lower_loss(job, LOSS_MARGIN["kind-v2"]))
    screen.say(facts.require_better(kubectl.get("finetunejob", "kind"), job, "exact-match"))
    screen.table(["PROMPT", "KIND", "KIND-V2"], [[p, before[p], answers[p].text] for p in PROMPTS])
    if (now := watch.engine_identity(kubectl, "stdlib")) != engine:
        raise facts.ClaimFailed(f"the engine was restarted: {engine} became {now}")
    screen.say(f"engine container unchanged: {engine}")


def save_report(kubectl: Kubectl, job: dict[str, dict[str, dict[str, str]]]) -> Path:
    """Copy a job's report.html from the claim, through the serving pod, which mounts it."""
    path = job["status"]["artifact"]["uri"].replace("pvc://", "/mnt/pvc/", 1) + "/report.html"
    report = OUT / f"{job['metadata']['name']}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(
        kubectl("exec", "deployment/stdlib", "-c", "gateway", "--", "cat", path), encoding="utf-8"
    )
    return report


def show(screen: Screen, kubectl: Kubectl, *words: str) -> None:
    """Run kubectl as a person would, with its output on screen."""
    screen.command("kubectl", *words)
    print(indent(kubectl(*words)))


def indent(text: str) -> str:
    """Text as it stands under a command."""
    return "".join(f"        {line}\n" for line in text.rstrip().splitlines()).rstrip()


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    sys.exit(main())
