"""When a live object is as desired."""

from typing import Any

import pytest

from kubetune.controller.differs import differs

SAME: dict[str, tuple[Any, Any]] = {
    "equal": ({"a": [1, {"b": "c"}]}, {"a": [1, {"b": "c"}]}),
    "others added fields": ({"a": 1}, {"a": 1, "b": 2, "status": {}}),
    "defaults below a list": ([{"name": "x"}], [{"name": "x", "protocol": "TCP"}]),
    "an empty block that the API server drops": ({"emptyDir": {}}, {}),
    "a canonical cpu": ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "500m"}}),
    "a number as quantity": ({"limits": {"cpu": 2}}, {"limits": {"cpu": "2"}}),
    "canonical memory": ({"limits": {"memory": "1024Mi"}}, {"limits": {"memory": "1Gi"}}),
    "a size limit": ({"emptyDir": {"sizeLimit": "2048Ki"}}, {"emptyDir": {"sizeLimit": "2Mi"}}),
    "an exponent": ({"requests": {"storage": "1e3"}}, {"requests": {"storage": "1k"}}),
}
DIFFERENT: dict[str, tuple[Any, Any]] = {
    "a value": ({"a": 1}, {"a": 2}),
    "a type": ({"a": "1"}, {"a": 1}),
    "missing": ({"a": 1}, {}),
    "missing altogether": ({"a": 1}, None),
    "a list that grew": ({"a": [1]}, {"a": [1, 2]}),
    "a list that shrank": ({"a": [1, 2]}, {"a": [1]}),
    "another order": ({"args": ["a", "b"]}, {"args": ["b", "a"]}),
    "a text is no list": ({"a": ["b"]}, {"a": "b"}),
    "a quantity": ({"limits": {"memory": "1G"}}, {"limits": {"memory": "1Gi"}}),
    "quantities only where they are": ({"env": {"cpu": "0.5"}}, {"env": {"cpu": "500m"}}),
    "no quantity at all": ({"limits": {"memory": "plenty"}}, {"limits": {"memory": "1Gi"}}),
    "to be emptied": ({"args": []}, {"args": ["--old"]}),
}


@pytest.mark.parametrize(("desired", "live"), SAME.values(), ids=SAME)
def test_nothing_to_do(desired: Any, live: Any):
    assert not differs(desired, live)


@pytest.mark.parametrize(("desired", "live"), DIFFERENT.values(), ids=DIFFERENT)
def test_to_be_applied(desired: Any, live: Any):
    assert differs(desired, live)
