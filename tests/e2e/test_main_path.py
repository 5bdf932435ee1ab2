"""The quickstart with shorter training: from kubectl apply to a served adapter, then faults."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.demo import chat
from dev.kubectl import Kubectl, wait_for
from tests.e2e import jobs, observe

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

QUICKSTART = Path("examples/quickstart")
STEPS = {"base": 40, "scope": 15, "kind": 10, "kind-v2": 15}


def shortened(name: str) -> dict[str, Any]:
    """One of the quickstart's manifests, with fewer steps and fewer evaluated examples."""
    manifest = YAML(typ="safe").load((QUICKSTART / f"{name}.yaml").read_text())
    manifest["spec"]["training"]["maxSteps"] = STEPS[name]
    manifest["spec"]["training"]["warmupSteps"] = 2
    if "evaluation" in manifest["spec"]:
        manifest["spec"]["evaluation"]["maxExamples"] = 16
    return manifest


@pytest.fixture(scope="module")
def served(kubectl: Kubectl) -> Kubectl:
    """Everything of the quickstart applied, in the wrong order, and waited for."""
    kubectl("apply", "-k", str(QUICKSTART / "data"))
    kubectl("wait", "--for=condition=Complete", "job/stdlib-data", "--timeout=180s")
    observe.apply(kubectl, YAML(typ="safe").load((QUICKSTART / "adapterset.yaml").read_text()))
    observe.apply(kubectl, *(shortened(name) for name in ("kind", "scope", "base")))
    for name in ("pretrainjob/stdlib-base", "finetunejob/scope", "finetunejob/kind"):
        observe.until_condition(kubectl, name, "Complete", timeout=300)
    observe.until_condition(kubectl, "adapterset/stdlib", "Loaded", timeout=300)
    observe.until_condition(kubectl, "adapterset/stdlib", "Available", timeout=60)
    return kubectl


@pytest.fixture
def url(served: Kubectl) -> Iterator[str]:
    with served.port_forward("service/stdlib", 8000) as base_url:
        yield base_url


def digest_of(kubectl: Kubectl, job: str) -> str:
    """What names the version that a job made."""
    return str(observe.status(kubectl, job)["artifact"]["digest"])


def served_adapters(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """The adapters in the set's status, by name."""
    return {a["name"]: a for a in observe.status(kubectl, "adapterset/stdlib")["adapters"]}


def engine_container(kubectl: Kubectl) -> dict[str, Any]:
    [pod] = observe.pods(kubectl, "AdapterSet", "stdlib")
    return next(c for c in pod["status"]["initContainerStatuses"] if c["name"] == "engine")


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])


def test_base_and_adapters_answer_under_their_names(served: Kubectl, url: str) -> None:
    assert sorted(chat.models(url)) == ["kind", "scope", "stdlib-base"]
    for model in ("stdlib-base", "scope", "kind"):
        body = {"model": model, "prompt": "def ", "max_tokens": 4, "temperature": 0}
        answer = chat.call(url, "/v1/completions", body)
        assert answer["model"] == model
        assert answer["usage"]["completion_tokens"] >= 1
    assert chat.ask(url, "scope", "What is open?").version == digest_of(served, "finetunejob/scope")
    assert chat.ask(url, "stdlib-base", "What is open?").version is None


def test_an_unknown_model_is_a_404_that_lists_the_known_ones(url: str) -> None:
    with pytest.raises(chat.NotServed, match=r"^404: .*scope") as refusal:
        chat.ask(url, "nobody", "Hello?")
    assert json.loads(str(refusal.value).removeprefix("404: "))["error"]["code"]


def test_jobs_report_evaluation_artifact_and_report(served: Kubectl) -> None:
    status = observe.status(served, "finetunejob/kind")
    assert status["phase"] == "Succeeded"
    assert {m["name"] for m in status["evaluation"]["tuned"]} >= {"loss", "perplexity", "exact-match"}
    assert status["evaluation"]["baseline"]
    folder = observe.claim_path(served, status["artifact"]["uri"])
    assert "<svg" in (folder / "report.html").read_text()
    assert not (folder.parent / "checkpoints").exists()
    listing = served("get", "kubetune")
    assert "stdlib-base" in listing
    assert "Succeeded" in listing
    assert "1/1" in listing


def test_a_later_version_goes_live_and_the_engine_keeps_running(served: Kubectl, url: str) -> None:
    before = engine_container(served)["containerID"]
    assert chat.ask(url, "kind", "What is open?").version == digest_of(served, "finetunejob/kind")
    observe.apply(served, shortened("kind-v2"))
    observe.until_condition(served, "finetunejob/kind-v2", "Complete", timeout=240)
    digest = digest_of(served, "finetunejob/kind-v2")

    def live() -> bool | None:
        kind = served_adapters(served)["kind"]
        return (kind["digest"] == digest and kind["ready"] == 1) or None

    wait_for("kind-v2 going live", live, timeout=60)
    assert chat.ask(url, "kind", "What is open?").version == digest
    assert engine_container(served)["containerID"] == before


@pytest.mark.long
def test_an_adapter_with_a_wrong_digest_or_base_is_never_loaded(served: Kubectl, url: str) -> None:
    artifact = observe.status(served, "finetunejob/scope")["artifact"]
    observe.apply(served, jobs.pretrain("other-base", steps=5))
    observe.apply(served, jobs.finetune("foreign", "other-base", steps=5))
    observe.until_condition(served, "finetunejob/foreign", "Complete", timeout=240)
    original = served.get("adapterset", "stdlib")["spec"]["adapters"]
    bad = [
        {"name": "forged", "source": {"uri": artifact["uri"]}, "digest": "sha256:" + "0" * 64},
        {"name": "foreign", "source": {"jobRef": {"name": "foreign"}}},
    ]
    patch = json.dumps({"spec": {"adapters": original + bad}})
    served("patch", "adapterset/stdlib", "--type=merge", "-p", patch)

    def refused() -> dict[str, str] | None:
        entries = served_adapters(served)
        reasons = {name: entries[name].get("reason", "") for name in ("forged", "foreign") if name in entries}
        known = len(reasons) == 2 and all(reasons.values()) and reasons["forged"] != "Loading"
        return reasons if known else None

    reasons = wait_for("both bad adapters being refused", refused, timeout=60)
    assert reasons["foreign"] == "BaseModelMismatch"
    assert reasons["forged"] == "DigestMismatch"
    assert observe.condition(served, "adapterset/stdlib", "Loaded")["status"] == "False"
    assert sorted(chat.models(url)) == ["kind", "scope", "stdlib-base"]

    served("patch", "adapterset/stdlib", "--type=merge", "-p", json.dumps({"spec": {"adapters": original}}))
    observe.until_condition(served, "adapterset/stdlib", "Loaded", timeout=60)
    assert served_adapters(served).keys() == {"kind", "scope"}


def test_a_killed_engine_has_its_adapters_back_before_the_pod_is_ready(served: Kubectl) -> None:
    [pod] = observe.pods(served, "AdapterSet", "stdlib")
    restarts = engine_container(served)["restartCount"]
    digest = served_adapters(served)["kind"]["digest"]
    observe.kill(pod, "vllm")
    unready = wait_for(
        "the pod becoming unready",
        lambda: not is_ready(observe.pods(served, "AdapterSet", "stdlib")[0]) or None,
        timeout=60,
    )
    assert unready
    wait_for(
        "the pod becoming ready again",
        lambda: is_ready(observe.pods(served, "AdapterSet", "stdlib")[0]) or None,
        timeout=400,
    )
    with served.port_forward("service/stdlib", 8000) as base_url:
        begun = time.monotonic()
        assert sorted(chat.models(base_url)) == ["kind", "scope", "stdlib-base"]
        assert chat.ask(base_url, "kind", "What is open?").version == digest
        assert time.monotonic() - begun < 60
    assert engine_container(served)["restartCount"] > restarts


def gateway_container(kubectl: Kubectl) -> dict[str, Any]:
    [pod] = observe.pods(kubectl, "AdapterSet", "stdlib")
    return next(c for c in pod["status"]["containerStatuses"] if c["name"] == "gateway")


def test_a_killed_gateway_finds_its_adapters_again_and_the_engine_keeps_running(served: Kubectl) -> None:
    [pod] = observe.pods(served, "AdapterSet", "stdlib")
    engine, restarts = engine_container(served)["containerID"], gateway_container(served)["restartCount"]
    digests = {name: entry["digest"] for name, entry in served_adapters(served).items()}
    observe.kill(pod, "kubetune gateway")

    def back() -> bool | None:
        found = gateway_container(served)
        return (found["restartCount"] > restarts and found["ready"]) or None

    wait_for("the gateway being ready again", back, timeout=120)
    with served.port_forward("service/stdlib", 8000) as base_url:
        assert sorted(chat.models(base_url)) == ["kind", "scope", "stdlib-base"]
        for name, digest in digests.items():
            assert chat.ask(base_url, name, "What is open?").version == digest
    assert engine_container(served)["containerID"] == engine
    observe.until_condition(served, "adapterset/stdlib", "Loaded", timeout=60)
