"""The chart's defaults for all pods that the operator makes. What a job or an AdapterSet sets itself takes
precedence."""

from kubetune.api.env import Env
from kubetune.api.keyvalue import Labels
from kubetune.api.meta import Block
from kubetune.api.pod import PullSecrets, Tolerations
from kubetune.api.resources import ResourceRequirements
from kubetune.api.security import Id

USER = 65532


class ContainerDefaults(Block):
    """Defaults of one kind of container."""

    resources: ResourceRequirements | None = None
    """Compute resources. A resource named here replaces kubetune's own default request and limit of it."""
    env: Env = []
    """Extra environment variables."""


NOTHING_SAID = ContainerDefaults()


class PodDefaults(Block):
    """Defaults of training, serving and reclaim pods."""

    run_as_user: Id | None = USER
    """User, group and fsGroup; None: none is set, so that the platform assigns them."""
    node_selector: Labels = {}
    """Labels that a node must have."""
    tolerations: Tolerations = []
    """Taints that are tolerated."""
    image_pull_secrets: PullSecrets = []
    """Secrets for the registry; each namespace needs its own."""
    trainer: ContainerDefaults = NOTHING_SAID
    """For the trainer of a training pod."""
    engine: ContainerDefaults = NOTHING_SAID
    """For the engine of a serving pod."""
    gateway: ContainerDefaults = NOTHING_SAID
    """For the gateway of a serving pod, and for the check of its base."""
    reclaim: ContainerDefaults = NOTHING_SAID
    """For the container that removes a deleted job's files."""
