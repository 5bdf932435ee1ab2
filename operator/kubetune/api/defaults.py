"""What the chart says of all pods that the operator makes. What a job or an AdapterSet says goes before."""

from kubetune.api.env import Env
from kubetune.api.keyvalue import Labels
from kubetune.api.meta import Block
from kubetune.api.pod import PullSecrets, Tolerations
from kubetune.api.resources import ResourceRequirements
from kubetune.api.security import Id

USER = 65532


class ContainerDefaults(Block):
    """Of one kind of container."""

    resources: ResourceRequirements | None = None
    """Compute resources. What is said of a resource replaces kubetune's own default of it."""
    env: Env = []
    """Extra environment variables."""


NOTHING_SAID = ContainerDefaults()


class PodDefaults(Block):
    """Of training, serving and reclaim pods."""

    run_as_user: Id | None = USER
    """User, group and fsGroup; None: none is set, so that the platform assigns them."""
    node_selector: Labels = {}
    """Labels that a node must have."""
    tolerations: Tolerations = []
    """Taints that are tolerated."""
    image_pull_secrets: PullSecrets = []
    """Secrets for the registry; each namespace needs its own."""
    trainer: ContainerDefaults = NOTHING_SAID
    """Of the container of a training pod."""
    engine: ContainerDefaults = NOTHING_SAID
    """Of the engine of a serving pod."""
    gateway: ContainerDefaults = NOTHING_SAID
    """Of the gateway of a serving pod, and of the check of the base."""
    reclaim: ContainerDefaults = NOTHING_SAID
    """Of the container that removes a deleted job's files."""
