"""Results as rows of benchmarks/RESULTS.md: arithmetic and text alone."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu.workloads import WORKLOADS, Workload, peak, tiny

Result = dict[str, Any]
"""As `turn.take` returns it, with the number of its round."""


def rows(results: Sequence[Result], machine: dict[str, Any], *, small: bool) -> list[str]:
    """The lines of a table: a workload each, as far as there are results."""
    rate = peak(machine.get("gpu") or "")
    lines = [
        "| what | kubetune, tokens/s | HF Trainer, tokens/s | ratio | MFU | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for each in WORKLOADS:
        workload = tiny(each) if small else each
        sides = {
            side: [r for r in results if (r["side"], r["workload"]) == (side, each.name)]
            for side in ("ours", "hf")
        }
        if any(sides.values()):
            lines.append(_row(workload, sides, rate))
    return lines if len(lines) > 2 else []


def _row(workload: Workload, sides: dict[str, list[Result]], rate: float | None) -> str:
    size = f"{workload.rows} x {workload.length} tokens"
    cells = [f"{workload.what}, {size}"]
    cells += [_spread([s for r in found for s in r["tokens_per_second"]], ",.0f") for found in sides.values()]
    ratios = [_speed(a) / _speed(b) for a in sides["ours"] for b in sides["hf"] if a["round"] == b["round"]]
    cells.append(_spread(ratios, ".2f"))
    cells.append(_both(sides, lambda found: _mfu(workload, found, rate)))
    cells.append(_both(sides, lambda found: f"{max(r['peak_gib'] for r in found):.1f}"))
    return f"| {' | '.join(cells)} |"


def _both(sides: dict[str, list[Result]], show: Any) -> str:
    """Ours, and theirs after a comma."""
    return ", ".join(show(found) if found else "-" for found in sides.values())


def _mfu(workload: Workload, found: Sequence[Result], rate: float | None) -> str:
    """Model FLOPs utilisation: what the training needs by its formula, as a share of the GPU's peak."""
    if rate is None:
        return "-"
    speed = statistics.median(_speed(r) for r in found)
    return f"{speed * workload.flops / (rate * 1e12):.1%}"


def _speed(result: Result) -> float:
    return statistics.median(result["tokens_per_second"])


def _spread(values: Sequence[float], form: str) -> str:
    """Median, and in brackets the least and the most."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):{form}}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def losses(results: Iterable[Result]) -> list[str]:
    """The mean loss of each turn: both trainers see the same data, and begin with the same weights."""
    return [f"{r['workload']}, round {r['round']}, {r['side']}: mean loss {r['loss']:.4f}" for r in results]
