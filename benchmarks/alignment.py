"""What learning from rewards does: examples/reinforcement in full, once per seed, without a cluster.

    python benchmarks/alignment.py --seeds 3

Three chained jobs (SFT, reward model, PPO from the tuned adapter) and GRPO with a rule, each on the base that
base.yaml makes. Prints rows for benchmarks/RESULTS.md: medians over the seeds, least and most in brackets.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's main does, before torch is there

from measured_run import carry_out
from ruamel.yaml import YAML

from kubetune.api.runspec import CONFIGMAP_ROOT, PVC_ROOT, RunSpec
from kubetune.desired.runspec import base_model, former_adapter, parse_spec, reward_model, run_spec

EXAMPLES = Path(__file__).parents[1] / "examples" / "reinforcement"
SHOWN = {"rlhf-reward": "accuracy", "rlhf-ppo": "reward", "sums": "reward"}

Numbers = dict[str, tuple[float, float]]
"""metric -> before, after"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    found = [chain(seed) for seed in range(seeds)]
    for job, metric in SHOWN.items():
        before, after = ([one[job][metric][i] for one in found] for i in (0, 1))
        row = f"| {job} | {metric} {spread(before)} -> {spread(after)}"
        if "kl" in found[0][job]:
            row += f", KL {spread([one[job]['kl'][1] for one in found])} nats"
        print(f"{row} | {seeds} seeds |")


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def chain(seed: int) -> dict[str, Numbers]:
    """Every job of the examples, each after what it starts from."""
    documents = [d for path in sorted(EXAMPLES.glob("*.yaml")) for d in YAML(typ="safe").load_all(path)]
    jobs = {d["metadata"]["name"]: d for d in documents if d["kind"].endswith("Job")}
    [data] = [d["data"] for d in documents if d["kind"] == "ConfigMap"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in data.items():
            path = folder / "configmap" / "reinforcement" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        order = ("reinforcement-base", "rlhf-sft", "rlhf-reward", "rlhf-ppo", "sums")
        return {job: learned(jobs[job], seed, folder) for job in order}


def learned(job: dict[str, Any], seed: int, folder: Path) -> Numbers:
    """One job, as the operator would hand it to the trainer."""
    job["metadata"] |= {"namespace": "benchmark", "uid": job["metadata"]["name"]}
    job["spec"]["training"]["seed"] = seed
    spec = job["spec"]
    start = {
        "base": base_model(made(spec["baseModel"]), None) if "baseModel" in spec else None,
        "adapter": former_adapter(made(spec["adapter"]), None) if "adapter" in spec else None,
        "reward": reward_model(made(r["model"]), None) if "model" in (r := spec.get("reward", {})) else None,
    }
    text = run_spec(job, parse_spec(job), **start).canonical()
    for root, place in ((CONFIGMAP_ROOT, "configmap"), (PVC_ROOT, "pvc")):
        text = text.replace(root, str(folder / place))
    measured = carry_out(RunSpec.model_validate_json(text))
    return {name: (measured.before[name], after) for name, after in measured.after.items()}


def made(source: dict[str, Any]) -> str:
    """Where a job's artifact lies."""
    name = source["jobRef"]["name"]
    return f"pvc://models/{name}-{name[:8]}/artifact"


if __name__ == "__main__":
    main()
