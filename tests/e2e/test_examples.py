"""An example of each objective and method, run on the cluster, but for a few steps on a few records."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.kubectl import Kubectl
from tests.e2e import observe
from tests.fixtures.sampled import sampled

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

FOLDERS = ("classification", "formats", "lora", "methods", "preferences", "pretraining")
REWARDED = Path("examples/reinforcement")
BASE = {"jobRef": {"kind": "PretrainJob", "name": "reinforcement-base"}}
WORDS = ("cat", "dog", "fox", "owl", "hen", "bee", "ant", "cow")
KINDS = ("negative", "positive")
RECORDS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [{"instruction": f"Name {w} {i}.", "output": f"A {w}."} for i, w in enumerate(WORDS * 4)],
    "dolly": [{"instruction": f"Name {w} {i}.", "response": f"A {w}."} for i, w in enumerate(WORDS * 4)],
    "flan": [{"inputs": f"Name {w} {i}.", "targets": f"A {w}."} for i, w in enumerate(WORDS * 4)],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"{w} {i}?"}, {"from": "gpt", "value": "Yes."}]}
        for i, w in enumerate(WORDS * 4)
    ],
    "messages": [
        {
            "messages": [
                {"role": "user", "content": f"{w} {i}?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": "No.", "weight": 0},
            ]
        }
        for i, w in enumerate(WORDS * 4)
    ],
    "preference": [
        {"prompt": f"Name {w} {i}. ", "chosen": f"A {w}.", "rejected": "Nothing."}
        for i, w in enumerate(WORDS * 4)
    ],
    "text": [{"text": f"The {w} saw {i} of the {v}s."} for i, w in enumerate(WORDS) for v in WORDS],
    "classification": [{"text": f"{w} {i}", "label": KINDS[i % 2]} for i, w in enumerate(WORDS * 4)],
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(document)) for document in YAML(typ="safe").load_all(path)]


def shortened(job: dict[str, Any]) -> dict[str, Any]:
    """What is learned and how stays; what from, and for how long, becomes small."""
    spec = job["spec"]
    if "baseModel" in spec:
        encodes = spec["stage"] == "classification"
        spec["baseModel"] = {"jobRef": {"kind": "PretrainJob", "name": "encoder"}} if encodes else BASE
    if "adapter" in spec:
        spec["adapter"] = {"jobRef": {"kind": "FineTuneJob", "name": "rlhf-sft"}}
    if "from" in spec.get("model", {}):
        spec["model"] = {"from": BASE}
    if "config" in spec.get("model", {}):
        spec["model"]["config"] |= {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 192}
        spec["tokenizer"]["train"]["vocabSize"] = 400
    data = spec["data"]
    for source in [*data.get("sources", data.get("mixture", []))]:
        source["uri"] = f"configmap://small/{source.get('format', 'text')}.jsonl"
    if "data" in spec.get("evaluation", {}):
        spec["evaluation"].pop("data")
    data["sequenceLength"] = 44  # with 20 virtual tokens the base's context
    data["validation"] = {"fraction": 0.2}
    spec["training"] = {
        name: value
        for name, value in spec["training"].items()
        if name not in ("epochs", "maxSteps", "maxTokens")
    } | {"maxSteps": 10, "globalBatchSize": 8, "warmupSteps": 2}
    spec["compute"] = {"resourcesPerNode": {"requests": {"cpu": "300m", "memory": "768Mi"}}}
    return job


JOBS = [
    shortened(document)
    for folder in FOLDERS
    for path in sorted(Path("examples", folder).glob("*.yaml"))
    for document in documents(path)
]
NAMES = [f"{job['kind'].lower()}/{job['metadata']['name']}" for job in JOBS]
SHORT = {"pretrainjob/encoder", "finetunejob/sentiment", "finetunejob/kind-qlora", "finetunejob/kind-dpo"}
"""Without --chaos=long. The others differ in what tests/trainer runs, too."""
WHOLE = [document for path in sorted(REWARDED.glob("*.yaml")) for document in documents(path)]
LEARNED_FROM_REWARDS = [
    f"{document['kind'].lower()}/{document['metadata']['name']}"
    for document in WHOLE
    if document["kind"].endswith("Job")
]


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl, thorough: bool) -> Kubectl:
    """All of them at once, the children with the jobs that they start from."""
    data = {
        f"{form}.jsonl": "".join(json.dumps(r) + "\n" for r in records) for form, records in RECORDS.items()
    }
    small = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "small"}, "data": data}
    # The claim is there.
    chosen = [job for name, job in zip(NAMES, JOBS, strict=True) if thorough or name in SHORT]
    observe.apply(kubectl, *(d for d in WHOLE if d["kind"] != "PersistentVolumeClaim"), small, *chosen)
    return kubectl


@pytest.mark.parametrize("name", [*LEARNED_FROM_REWARDS, *sampled(NAMES, SHORT)])
def test_it_runs_and_says_what_came_of_it(applied: Kubectl, name: str) -> None:
    observe.until_condition(applied, name, "Complete", timeout=500)
    status = observe.status(applied, name)
    spec = applied.get(name)["spec"]
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    adapted = spec.get("method", "full") != "full" and not spec["output"].get("merge")
    kinds = {"lora": "lora", "qlora": "lora", "prompt-tuning": "prompt"}
    assert status["artifact"]["format"] == (kinds[spec["method"]] if adapted else "full")
    measured = {m["name"]: float(m["value"]) for m in status["evaluation"]["tuned"]}
    asked = spec.get("evaluation", {}).get("metrics")
    assert not asked or list(measured) == asked
    assert measured or spec["data"]["validation"]["fraction"] == 0
    if name in LEARNED_FROM_REWARDS and "kl" in measured:
        before = {m["name"]: float(m["value"]) for m in status["evaluation"]["baseline"]}
        assert before["kl"] == 0
        assert measured["reward"] > before["reward"], "these run in full"
