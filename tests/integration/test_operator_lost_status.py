"""What the operator did just before it died may not be in the status."""

import pytest

from tests.fixtures.operator import eventually
from tests.fixtures.world import World

pytestmark = pytest.mark.integration


def test_an_attempt_that_no_status_knows_of_is_waited_for_although_its_job_is_deleted(world: World) -> None:
    world.pretrain("tiny", "run")
    pod = world.pod("tiny")["metadata"]["name"]
    world.until_phase("tiny", "Running")
    world.operator.end()
    world.patch(f"{world.ours('PretrainJob', 'tiny')}/status", {"status": None})
    world.node.stubborn.add(pod)
    [child] = world.children("tiny")
    world.delete(world.path("jobs", child["metadata"]["name"], root="/apis/batch/v1"))
    eventually("the Job is gone", lambda: world.children("tiny") == [])
    world.operator.start()
    world.operator.until_ready()
    # Two trainers must never write to one folder.
    said = world.until_condition("tiny", "ResourcesReady", "PodTerminating")
    assert pod in said["message"]
    assert world.children("tiny") == []
    world.node.stubborn.clear()
    world.until_phase("tiny", "Running")
