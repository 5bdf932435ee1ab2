"""Reconciler of PretrainJob and FineTuneJob."""

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import ValidationError

from kubetune.api.exitcodes import Reason
from kubetune.api.lifecycle import Lifecycle
from kubetune.api.runspec import RunModel, RunSpec
from kubetune.api.status import Failure, JobStatus
from kubetune.controller.attempts import Attempts, end_what_goes_on, find_attempts, forget_old_attempts
from kubetune.controller.client import Client, Object
from kubetune.controller.errors import AlreadyExists, ApiError, Conflict, Refused
from kubetune.controller.events import record
from kubetune.controller.needs import FOUND, NOT_CHECKED, check_volumes, find_start, run_has_start
from kubetune.controller.reclaim import Reclaim, keep
from kubetune.controller.reconciler import Result
from kubetune.controller.write_status import write_status
from kubetune.desired.common import is_owned
from kubetune.desired.job import RUN_KEY, TrainingSettings, Turn, config_map, config_map_of, job
from kubetune.desired.runspec import JobSpec, parse_spec, run_spec, uris
from kubetune.desired.volumes import locate
from kubetune.status.attempts import Attempt, attempt_of
from kubetune.status.conditions import parse_timestamp
from kubetune.status.decision import Decision, Finish, StartAttempt, StopAttempt, Wait, decide
from kubetune.status.ending import terminating
from kubetune.status.job import NEEDS, Need, ObservedJob, is_finished, job_status, seen_again
from kubetune.status.news import job_news

log = logging.getLogger(__name__)

SOON_SECONDS, LATE_SECONDS = 5.0, 30.0
"""How often what is missing is looked for, at first and later: claims, ConfigMaps and events are not
watched."""


@dataclass(frozen=True)
class Started:
    """What came of trying to start an attempt."""

    dependencies: Need
    resources: Need
    attempt: Attempt | None = None
    run_spec: str | None = None


@dataclass(frozen=True)
class JobReconciler:
    """Brings a training job from applied to finished, one attempt after another."""

    kind: str
    settings: TrainingSettings

    async def reconcile(self, client: Client, resource: Object, now: datetime) -> Result:
        """Look at the attempts, start one if one is due, and say how things are."""
        previous = JobStatus.model_validate(resource.get("status", {}), extra="ignore")
        wanted = lifecycle(resource)
        if "deletionTimestamp" in resource["metadata"]:
            return await Reclaim(client, resource, self.settings).run(now)
        if is_finished(previous):
            # A job runs once, whatever happens to its children.
            observed_now = seen_again(previous, resource["metadata"]["generation"], now)
            await write_status(client, resource, previous, observed_now)
            return await _expire(client, resource, previous, wanted, now)
        resource = await keep(client, resource)
        found = await find_attempts(client, resource, previous, now)
        decision = decide(found.seen, previous, wanted, now)
        begun = bool(previous.attempts or found.seen.attempts)
        dependencies, resources = (run_has_start(resource), FOUND) if begun else (NOT_CHECKED, NOT_CHECKED)
        run = _run_of(found, previous)
        observed = ObservedJob(found.seen, dependencies, resources, wanted.suspend, run_spec=run)
        if isinstance(decision, StartAttempt):
            decision, observed = await self._started(
                client, resource, previous, found, decision, observed, now
            )
        if observed.last:
            # Before the status says that the job is over, because after that nobody looks at its pods.
            await end_what_goes_on(client, observed.last, now)
        status = job_status(resource, previous, observed, decision, now)
        # Events first: if the status were written first, a crash in between would lose them.
        for news in job_news(previous, status):
            await record(client, resource, news.type, news.reason, news.message)
        await write_status(client, resource, previous, status)
        if isinstance(decision, StopAttempt) and found.newest:
            # Not before the status knows of this attempt: its number must not be used again.
            log.info("attempt %d is ended: %s", status.attempts, decision.reason)
            await client.delete(found.newest)
        after = _again(decision, observed, status, wanted, now)
        return Result(after, wants_jobs=observed.dependencies.met is not True)

    async def _started(
        self,
        client: Client,
        resource: Object,
        previous: JobStatus,
        found: Attempts,
        start: StartAttempt,
        observed: ObservedJob,
        now: datetime,
    ) -> tuple[Decision, ObservedJob]:
        """Try to start an attempt; returns the decision that came of it, and what is observed then."""
        try:
            started = await self._start(client, resource, previous, found, start, now)
        except ValidationError as error:
            unknown = replace(observed, dependencies=NOT_CHECKED, resources=NOT_CHECKED)
            return Finish("Failed", _invalid(error)), unknown
        observed = replace(observed, dependencies=started.dependencies, resources=started.resources)
        if started.attempt is None:
            return start, observed
        seen = replace(observed.seen, attempts=[*observed.seen.attempts, started.attempt])
        return Wait(starts=False), replace(observed, seen=seen, run_spec=started.run_spec)

    async def _start(
        self,
        client: Client,
        resource: Object,
        previous: JobStatus,
        found: Attempts,
        start: StartAttempt,
        now: datetime,
    ) -> Started:
        """Create an attempt's Job if all that it needs is there.

        Raises:
            ValidationError: the spec got past the CRD but not past the models.
        """
        namespace = resource["metadata"]["namespace"]
        earlier = _run_of(found, previous)
        run, text, dependencies = await _resolved(client, resource, parse_spec(resource), earlier)
        resources = await check_volumes(client, namespace, [locate(uri) for uri in uris(run)])
        if resources.met and found.seen.alive:
            said = terminating(found.seen.alive, found.seen.endings)
            resources = Need(False, "PodTerminating", said)
        if not dependencies.met or not resources.met:
            return Started(dependencies, resources)
        described = config_map(resource, text, self.settings)
        name = described["metadata"]["name"]
        child = job(resource, run, name, _turn(start, previous, found, lifecycle(resource)), self.settings)
        if start.attempt > 1:
            await _check_still_there(client, resource)
            await forget_old_attempts(client, resource, start.attempt)
        try:
            await _create(client, resource, described)
            created = await _create(client, resource, child)
        except ApiError as error:
            if not error.is_answer:
                raise
            return Started(dependencies, Need(False, "CreationRefused", error.message))
        log.info("attempt %d created as Job %s", start.attempt, child["metadata"]["name"])
        return Started(dependencies, resources, attempt_of(start.attempt, created, [], now), name)


async def _check_still_there(client: Client, resource: Object) -> None:
    """Check that a job still exists: an earlier attempt that is missing may have been deleted with it.

    Raises:
        NotFound, Conflict: it does not, or is being deleted.
    """
    meta = resource["metadata"]
    now = (await client.get(resource["kind"], meta["namespace"], meta["name"]))["metadata"]
    if now["uid"] != meta["uid"] or "deletionTimestamp" in now:
        raise Conflict(f"{resource['kind']} {meta['name']} has been deleted")


def lifecycle(resource: Object) -> Lifecycle:
    """The part of a job's spec that may change.

    Raises:
        ValidationError: it got past the CRD but not past the models.
    """
    known = {field.alias for field in Lifecycle.model_fields.values()}
    return Lifecycle.model_validate({k: v for k, v in resource["spec"].items() if k in known})


def _turn(start: StartAttempt, previous: JobStatus, found: Attempts, wanted: Lifecycle) -> Turn:
    used = max(previous.active_seconds, found.seen.active_seconds)
    limit = wanted.active_deadline_seconds
    return Turn(start.attempt, start.restarts, used, None if limit is None else limit - used)


def _run_of(found: Attempts, previous: JobStatus) -> str | None:
    """ConfigMap of the run spec that earlier attempts had."""
    return (config_map_of(found.newest) if found.newest else None) or previous.run_spec


async def _expire(
    client: Client, resource: Object, status: JobStatus, wanted: Lifecycle, now: datetime
) -> Result:
    """Delete a job that is over when its time has come."""
    seconds = wanted.ttl_seconds_after_finished
    if seconds is None or status.completion_time is None:
        return Result()
    left = parse_timestamp(status.completion_time) + timedelta(seconds=seconds) - now
    if left > timedelta():
        return Result(left.total_seconds())
    log.info("deleted: ttlSecondsAfterFinished is %d", seconds)
    await client.delete(resource)
    return Result()


async def _resolved(
    client: Client, resource: Object, spec: JobSpec, name: str | None
) -> tuple[RunSpec, str, Need]:
    """The run spec, also as text, and whether what it starts from is there yet.

    A later attempt uses the run spec of the one before it, in ConfigMap `name`: its checkpoints belong to
    that, and the job that it starts from may have been deleted since.
    """
    earlier = await client.find("ConfigMap", resource["metadata"]["namespace"], name) if name else None
    if earlier and is_owned(earlier, resource):
        text = str(earlier.get("data", {}).get(RUN_KEY))
        try:
            run = RunSpec.model_validate_json(text, extra="ignore")
            return run, text, run_has_start(resource)
        except ValidationError as error:
            log.warning("the run spec in ConfigMap %s cannot be used, resolved anew: %s", name, error)
    start, dependencies = await find_start(client, resource, spec)
    # Without a base, what is known already is checked all the same.
    run = run_spec(resource, spec, start.base or RunModel(), start.adapter, start.reward)
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


def _invalid(error: ValidationError) -> Failure:
    first = error.errors()[0]
    where = ".".join(("spec", *(str(part) for part in first["loc"])))
    return Failure(reason=Reason.INVALID_SPEC, message=f"{where}: {first['msg']}: apply a corrected job")


def _again(
    decision: Decision, observed: ObservedJob, status: JobStatus, wanted: Lifecycle, now: datetime
) -> float | None:
    """Seconds until the next look, where nothing that is watched will wake us."""
    if isinstance(decision, Finish):
        return None if wanted.ttl_seconds_after_finished is None else 0
    moments = [_of_unmet(observed, status, now)]
    if isinstance(decision, Wait) and decision.until:
        moments.append(max(0.1, (decision.until - now).total_seconds()))
    return min((seconds for seconds in moments if seconds is not None), default=None)


def _of_unmet(observed: ObservedJob, status: JobStatus, now: datetime) -> float | None:
    """Seconds until the next look at what is missing, where something is."""
    last = observed.last
    if last and last.state == "Pending" and not last.held and (last.being_made or not last.has_pod):
        return _pause(now - last.created)
    if observed.resources.met and observed.dependencies.met is not None:
        return None
    unmet = [c for c in status.conditions if c.type in NEEDS and c.status != "True"]
    since = min((parse_timestamp(c.last_transition_time) for c in unmet), default=now)
    return _pause(now - since)


def _pause(waited: timedelta) -> float:
    """Seconds until the next look at something that has been waited for so long."""
    return min(max(waited.total_seconds() / 6, SOON_SECONDS), LATE_SECONDS)
