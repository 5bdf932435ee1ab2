"""Brings every remote source of a run into the pod, before anything is read."""

import asyncio
import secrets
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kubetune.api.runspec import RunSecret, RunSpec
from kubetune.api.uris import is_remote
from kubetune_trainer.errors import InvalidSpec, StorageError
from kubetune_trainer.lmeval.tasks import data_sets
from kubetune_trainer.log import say
from kubetune_trainer.progress import Progress
from kubetune_trainer.signals import Stop
from kubetune_trainer.sources.cache import Entry, entry, link
from kubetune_trainer.sources.client import Changed, SourceClient
from kubetune_trainer.sources.download import Download
from kubetune_trainer.sources.hf import Hub
from kubetune_trainer.sources.https import Https
from kubetune_trainer.sources.meter import Meter
from kubetune_trainer.sources.names import Choose, check_places, choose_data, choose_model, choose_tables
from kubetune_trainer.sources.remote import RemoteFile
from kubetune_trainer.sources.s3 import S3
from kubetune_trainer.sources.secret import Secret

AT_ONCE = 4
"""Files downloaded at a time: one connection rarely uses all the bandwidth."""
LISTINGS = 3
"""How often a source is listed, if it changes while it is downloaded."""
STOP_SECONDS = 0.1


@dataclass(frozen=True)
class Wanted:
    """One remote source of a run."""

    where: str
    """The source, for messages."""
    uri: str
    root: Path
    """The link that leads to its files."""
    secret: RunSecret | None
    choose: Choose


def localize(spec: RunSpec, progress: Progress, stop: Stop) -> None:
    """Download what is not in the cache, and link each source to where the run spec says that it is.

    Raises:
        DataError: something is not there, may not be read, or leads to a forbidden address.
        StorageError: a server fails for too long, or the cache cannot be written.
        Terminated: asked to stop; what has come in stays in the cache.
    """
    wanted = list(_wanted(spec))
    if not wanted:
        return
    if spec.cache is None:
        raise InvalidSpec("the run spec has remote sources but no cache")
    meter = Meter(progress)
    asyncio.run(_while_not_stopped(_all(wanted, Path(spec.cache.path), meter, stop), stop))
    meter.end()


def _wanted(spec: RunSpec) -> Iterator[Wanted]:
    model = spec.model
    if model.uri and model.root and is_remote(model.uri):
        yield Wanted(f"base model {model.uri}", model.uri, Path(model.root), model.secret, choose_model)
    judge = spec.reward.model if spec.reward else None
    for what, folder in (("adapter", spec.adapter), ("reward model", judge)):
        if folder and is_remote(folder.uri):
            where = f"{what} {folder.uri}"
            yield Wanted(where, folder.uri, Path(folder.root), folder.secret, choose_model)
    sources = [s for s in spec.data.sources if s.weight > 0]
    for source in [*sources, *([spec.evaluation_source] if spec.evaluation_source else [])]:
        if is_remote(source.uri):
            where = f"source {source.name}: {source.uri}"
            yield Wanted(where, source.uri, Path(source.root), source.secret, choose_data)
    if spec.lm_eval:
        for repository in data_sets(spec.lm_eval.tasks):
            uri, root = f"hf://datasets/{repository}", Path(spec.lm_eval.root) / repository
            yield Wanted(
                f"data set {uri} of evaluation.lmEval", uri, root, spec.lm_eval.secret, choose_tables
            )


def _choose(choose: Choose, names: Iterable[str], path: str, where: str) -> list[str]:
    """The names that are meant, if they can all be files in one folder."""
    chosen = choose(names, path, where)
    check_places(chosen, where)
    return chosen


async def _while_not_stopped(work: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Do the work, and end it at a signal, even while a server is silent."""
    task = asyncio.create_task(work)
    while not task.done() and not stop.requested:
        await asyncio.wait([task], timeout=STOP_SECONDS)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stop.check()
    await task


async def _all(wanted: list[Wanted], cache: Path, meter: Meter, stop: Stop) -> None:
    turns = asyncio.Semaphore(AT_ONCE)
    try:
        async with asyncio.TaskGroup() as group:
            for one in wanted:
                group.create_task(_Source(one, cache, meter, stop, turns).bring())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Source:
    """Brings one source into the pod."""

    def __init__(
        self, wanted: Wanted, cache: Path, meter: Meter, stop: Stop, turns: asyncio.Semaphore
    ) -> None:
        self._wanted, self._cache, self._meter, self._stop, self._turns = wanted, cache, meter, stop, turns
        secret = Secret(wanted.where, wanted.secret)
        if wanted.uri.startswith("https://"):
            self._remote: Https | S3 | Hub = Https(wanted.uri, wanted.where, secret)
        else:
            scheme = S3 if wanted.uri.startswith("s3://") else Hub
            self._remote = scheme(wanted.uri, wanted.where, secret, partial(_choose, wanted.choose))

    async def bring(self) -> None:
        """List, download, link; again if the source changes meanwhile."""
        try:
            for _ in range(LISTINGS):
                files = await self._remote.files()
                try:
                    folder = await self._entry(files)
                except Changed:
                    say("warning", text=f"{self._wanted.where} changed while it was downloaded: begun anew")
                    continue
                link(self._wanted.root, folder)
                return
            raise StorageError(
                f"{self._wanted.where} changed {LISTINGS} times while it was downloaded: wait until it is "
                "complete"
            )
        finally:
            await self._remote.client.close()

    async def _entry(self, files: list[RemoteFile]) -> Path:
        size = sum(f.size or 0 for f in files)
        self._meter.expect(size)
        if all(f.identity for f in files):
            found = entry(self._cache, self._remote.place, files)
        else:
            # Nothing shows whether a file is still the same, so neither others nor later attempts may use it.
            found = entry(self._wanted.root.parent / ".unnamed", secrets.token_hex(), files)
        if found.is_complete():
            self._meter.have(size)
            say("download", text=f"{self._wanted.where}: in the cache")
            return found.folder
        async with found.alone(self._wanted.where):
            if found.is_complete():
                self._meter.have(size)
            else:
                try:
                    await self._download(found)
                except Changed:
                    self._meter.expect(-size)
                    raise
        return found.folder

    async def _download(self, found: Entry) -> None:
        self._meter.have(found.prepare())
        try:
            async with asyncio.TaskGroup() as group:
                for file in found.missing():
                    group.create_task(self._file(found, file))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        await asyncio.to_thread(found.complete)

    async def _file(self, found: Entry, file: RemoteFile) -> None:
        async with self._turns:
            self._stop.check()
            client: SourceClient = self._remote.client
            await Download(self._remote, client, file, found.part(file), self._meter, self._stop).run()
            found.keep(file)
