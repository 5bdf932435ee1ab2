"""What every test can use, and the order in which tests run."""

from pathlib import Path

import pytest

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in ("cluster", "crds", "golden", "helm", "s3", "world", "chaos", "crash")
]

# Quick ones first. A folder's name is also the mark of its tests, where there is such a mark.
_FOLDERS = ("unit", "integration")
_MARKS = {"unit": "unit", "integration": "integration", "engine": "engine", "e2e": "e2e"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    folders = {item: item.path.relative_to(here).parts[0] for item in items}
    for item, folder in folders.items():
        if folder in _MARKS:
            item.add_marker(_MARKS[folder])
    order = {folder: number for number, folder in enumerate(_FOLDERS)}
    items.sort(key=lambda item: order.get(folders[item], len(order)))
