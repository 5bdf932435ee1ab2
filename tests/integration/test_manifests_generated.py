"""Generated specs: what the models accept, the real API server accepts and stores whole."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes.client import CustomObjectsApi
from kubernetes.config import new_client_from_config

from kubetune.api.kinds import KINDS, Kind
from kubetune.api.meta import API_VERSION, GROUP, VERSION
from tests.fixtures.cluster import Cluster
from tests.fixtures.specs import specs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def api(crds: Cluster) -> CustomObjectsApi:
    return CustomObjectsApi(new_client_from_config(str(crds.kubeconfig)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(
    max_examples=50,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(data=st.data())
def test_what_the_models_accept_is_stored_whole(
    api: CustomObjectsApi, kind: Kind, data: st.DataObject
) -> None:
    spec = data.draw(specs(kind.name))
    whole = kind.spec.model_validate(spec).wire()
    body = {"apiVersion": API_VERSION, "kind": kind.name, "metadata": {"name": "generated"}, "spec": spec}
    stored: Any = api.create_namespaced_custom_object(
        GROUP, VERSION, "default", kind.plural, body, dry_run="All", field_validation="Strict"
    )
    assert stored["spec"] == whole
