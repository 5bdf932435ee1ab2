"""What every test can use, and the order in which tests run."""

import os
from pathlib import Path

import pytest

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in ("cluster", "crds", "golden", "helm", "s3", "world", "chaos", "crash")
]

# Quick ones first. A folder's name is also the mark of its tests, where there is such a mark.
_FOLDERS = ("unit", "integration")
_MARKS = {"unit": "unit", "integration": "integration", "engine": "engine", "e2e": "e2e"}
# A machine has room for one full cluster: these share a worker, which begins with them.
_FULL_CLUSTER = ("e2e", "chaos/test_local_cluster_crash.py", "chaos/test_node_kills.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    paths = {item: item.path.relative_to(here) for item in items}
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    ranks = {}
    for item, path in paths.items():
        folder = path.parts[0]
        if folder in _MARKS:
            item.add_marker(_MARKS[folder])
        full = parallel and str(path).startswith(_FULL_CLUSTER)
        item.add_marker(pytest.mark.xdist_group("full-cluster" if full else str(path)))
        ranks[item] = -1 if full else _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)
    items.sort(key=ranks.__getitem__)
