"""What every test can use, and the order in which tests run."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in (
        "cluster",
        "crds",
        "golden",
        "helm",
        "s3",
        "world",
        "chaos",
        "crash",
        "family_option",
        "telling",
    )
]

# How long an example takes is the machine's matter, and what else it does.
settings.register_profile("kubetune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubetune")

# Quick ones first. A folder's name is also the mark of its tests, where there is such a mark.
_FOLDERS = ("unit", "integration")
_MARKS = {"unit": "unit", "integration": "integration", "engine": "engine", "e2e": "e2e"}
# A machine has room for one full cluster, and for one engine: of two workers, one has all of these, and
# begins with them.
_LARGE = (
    "tests/e2e/", "tests/engine/", "tests/chaos/test_local_cluster_crash.py",
    "tests/chaos/test_node_kills.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFile(config, log)


class _ByFile(LoadScopeScheduling):
    """A file's tests, which share what is costly to set up, stay together."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_LARGE):
            return "large"
        # These are many operators at once: two such files would take the processor from each other's leaders.
        return "chaos" if nodeid.startswith("tests/chaos/") else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    ranks = {}
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in _MARKS:
            item.add_marker(_MARKS[folder])
        first = parallel and item.nodeid.startswith(_LARGE)
        ranks[item] = -1 if first else _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)
        if item.get_closest_marker("long") and item.config.getoption("--chaos") != "long":
            item.add_marker(pytest.mark.skip(reason="only with --chaos=long"))
    items.sort(key=ranks.__getitem__)
