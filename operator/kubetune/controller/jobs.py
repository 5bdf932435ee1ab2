"""Reconciler of PretrainJob and FineTuneJob."""

import logging
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from kubetune.api.exitcodes import Reason
from kubetune.api.runspec import RunModel, RunSpec
from kubetune.api.status import Failure, JobStatus
from kubetune.controller.attempts import Attempts, find_attempts
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import AlreadyExists, Refused, Unavailable
from kubetune.controller.events import record
from kubetune.controller.needs import FOUND, check_volumes, find_base
from kubetune.controller.reconciler import Result
from kubetune.controller.write_status import write_status
from kubetune.desired.common import is_owned
from kubetune.desired.job import RUN_KEY, Settings, config_map, config_map_of, job
from kubetune.desired.runspec import JobSpec, parse_spec, run_spec, uris
from kubetune.desired.volumes import locate
from kubetune.status.attempts import Attempt, attempt_of
from kubetune.status.conditions import parse_timestamp
from kubetune.status.decision import Decision, Finish, Start, Wait, decide
from kubetune.status.job import NEEDS, Need, Observed, is_finished, job_status, seen_again
from kubetune.status.news import job_news

log = logging.getLogger(__name__)

SOON_SECONDS, LATE_SECONDS = 5.0, 30.0
"""How often what is missing is looked for, at first and later: claims and ConfigMaps are not watched."""


@dataclass(frozen=True)
class Started:
    """What came of the wish to start an attempt."""

    dependencies: Need
    resources: Need
    attempt: Attempt | None = None


@dataclass(frozen=True)
class JobReconciler:
    """Brings a training job from applied to finished, one attempt after another."""

    kind: str
    settings: Settings

    async def reconcile(self, client: Client, resource: Object, now: datetime) -> Result:
        """Look at the attempts, start one if one is due, and say how things are."""
        previous = JobStatus.model_validate(resource.get("status", {}), extra="ignore")
        if is_finished(previous):
            # Whatever happens to its children: a job runs once.
            await write_status(
                client, resource, previous, seen_again(previous, resource["metadata"]["generation"])
            )
            return Result()
        found = await find_attempts(client, resource, previous.attempts, now)
        decision = decide(found.all, previous, resource["spec"].get("backoffLimit", 3), now)
        attempts, dependencies, resources = found.all, _carried(previous), FOUND
        if isinstance(decision, Start):
            try:
                started = await self._start(client, resource, found, decision)
            except ValidationError as error:
                decision = Finish("Failed", _invalid(error))
                dependencies = resources = Need(None, "NotChecked", "The spec is not valid")
            else:
                dependencies, resources = started.dependencies, started.resources
                if started.attempt:
                    attempts, decision = [*attempts, started.attempt], Wait()
        observed = Observed(attempts, dependencies, resources)
        status = job_status(resource, previous, observed, decision, now)
        await write_status(client, resource, previous, status)
        for news in job_news(previous, status):
            await record(client, resource, news.type, news.reason, news.message)
        return Result(_again(decision, observed, status, now), wants_jobs=dependencies.met is not True)

    async def _start(self, client: Client, resource: Object, found: Attempts, start: Start) -> Started:
        """Create an attempt's Job if all that it needs is there.

        Raises:
            ValidationError: the spec got past the CRD but not past the models.
        """
        namespace = resource["metadata"]["namespace"]
        run, text, dependencies = await _resolved(client, resource, parse_spec(resource), found)
        resources = await check_volumes(client, namespace, [locate(uri) for uri in uris(run)])
        if resources.met and found.alive:
            resources = Need(
                False,
                "PodTerminating",
                f"Pod {', '.join(found.alive)} of an earlier attempt has not ended; the next attempt starts "
                "when it has. If its node is lost for good, delete the pod by force",
            )
        if not dependencies.met or not resources.met:
            return Started(dependencies, resources)
        described = config_map(resource, text, self.settings)
        name = described["metadata"]["name"]
        child = job(resource, run, name, start.attempt, start.restarts, self.settings)
        try:
            await _create(client, resource, described)
            created = await _create(client, resource, child)
        except (Refused, Unavailable) as error:
            if isinstance(error, Unavailable) and error.code != 500:
                raise  # The API server is not well; 500 is an answer, of a webhook that does not work.
            return Started(dependencies, Need(False, "CreationRefused", error.message))
        log.info("attempt %d created as Job %s", start.attempt, child["metadata"]["name"])
        return Started(dependencies, resources, attempt_of(start.attempt, created, []))


async def _resolved(
    client: Client, resource: Object, spec: JobSpec, found: Attempts
) -> tuple[RunSpec, str, Need]:
    """The run spec, also as text, and whether its base is there yet.

    A later attempt goes on with the run spec of the one before it: its checkpoints belong to that, and the
    base's job may have been deleted since.
    """
    namespace = resource["metadata"]["namespace"]
    name = config_map_of(found.newest) if found.newest else None
    earlier = await client.find("ConfigMap", namespace, name) if name else None
    if earlier and is_owned(earlier, resource):
        text = str(earlier.get("data", {}).get(RUN_KEY))
        try:
            run = RunSpec.model_validate_json(text, extra="ignore")
            return run, text, Need(True, "Resolved", "As in the attempt before")
        except ValidationError as error:
            log.warning("the run spec in ConfigMap %s cannot be used, resolved anew: %s", name, error)
    base, dependencies = await find_base(client, namespace, spec)
    # Without a base, what is known already is looked at all the same.
    run = run_spec(resource, spec, base or RunModel())
    return run, run.canonical(), dependencies


async def _create(client: Client, resource: Object, child: Object) -> Object:
    """Create a child; one that we made before is as good."""
    try:
        return await client.create(child)
    except AlreadyExists:
        existing = await client.get(child["kind"], child["metadata"]["namespace"], child["metadata"]["name"])
        if is_owned(existing, resource):
            return existing
        name = f"{child['kind']} {child['metadata']['name']}"
        raise Refused(
            f"{name} exists and belongs to something else: delete it, or choose another name"
        ) from None


def _carried(previous: JobStatus) -> Need:
    """What was said about the dependencies when the run began: it is not asked again."""
    for condition in previous.conditions:
        if condition.type == "DependenciesReady" and condition.status == "True":
            return Need(True, condition.reason, condition.message)
    return Need(True, "Resolved")


def _invalid(error: ValidationError) -> Failure:
    first = error.errors()[0]
    where = ".".join(("spec", *(str(part) for part in first["loc"])))
    return Failure(reason=Reason.INVALID_SPEC, message=f"{where}: {first['msg']}: apply a corrected job")


def _again(decision: Decision, observed: Observed, status: JobStatus, now: datetime) -> float | None:
    """Seconds until the next look, where nothing that is watched will wake us."""
    if isinstance(decision, Finish):
        return None
    if isinstance(decision, Wait) and decision.until:
        return max(0.1, (decision.until - now).total_seconds())
    if observed.attempts and not observed.attempts[-1].has_pod:
        return SOON_SECONDS
    if observed.resources.met and observed.dependencies.met is not None:
        return None
    unmet = [c for c in status.conditions if c.type in NEEDS and c.status != "True"]
    since = min(parse_timestamp(c.last_transition_time) for c in unmet)
    return min(max((now - since).total_seconds() / 6, SOON_SECONDS), LATE_SECONDS)
