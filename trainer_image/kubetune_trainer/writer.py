"""One writer at a time: a trainer holds a lease on its run's folder, which others respect on any node.

The operator starts no attempt before the pods of earlier ones have ended. But a pod can be deleted by force
while its node is only cut off, and others may create pods. Hence a second lock, in the folder itself.

A lease is a file `.writer-<n>`. The only operation that the file system must do atomically is to create a
file that does not exist (O_EXCL). Only the holder writes its lease, and changes it at every beat. Others look
as often. Whoever sees no change at LOOKS looks in a row creates the file of the next number, which only one
can do, and removes the older one. As with the Leases of client-go, no clock is compared with another one. A
storage that stalls delays looks and beats alike.

A holder that has not beaten for a while, because it or its storage was frozen, may have been replaced. Before
it renames anything into place, it has to win the next number, too. If it cannot, it is out (`Superseded`).

Under one kernel, a lock on the lease (flock) tells others at once that its holder is gone.
"""

import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kubetune.api.warnings import WarningReason
from kubetune_trainer.errors import Superseded
from kubetune_trainer.files import cannot_write, fenced, writing
from kubetune_trainer.log import say
from kubetune_trainer.signals import Stop
from kubetune_trainer.warned import warn

BEAT_VARIABLE = "KUBETUNE_WRITER_BEAT"
"""Environment variable: seconds between two beats, the same for all trainers of a folder. Default: 5."""
LOOKS = 9
"""A holder is dead if so many looks in a row saw no beat."""
SURE_BEATS = 4
"""Beats after its last one during which a holder is sure of itself: far fewer than LOOKS."""
_NAME = re.compile(r"\.writer-(\d+)")
_GONE = (errno.ENOENT, errno.ESTALE)
"""Errors for a file that is gone, the latter on NFS."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def only_writer(folder: Path, uri: str, stop: Stop) -> Iterator[None]:
    """Hold the lease of a folder, once nobody else does. Whatever is written inside is fenced by it.

    Args:
        folder: of the run.
        uri: its name in messages.
        stop: ends the wait.

    Raises:
        StorageError: the folder cannot be written.
        Terminated: asked to stop while it waited.
        Superseded: on leaving, or at a write: another trainer has taken the folder over.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield  # The first process of a run holds it for all.
        return
    lease = _acquire(folder, uri, stop)
    try:
        with fenced(lease.check):
            yield
    finally:
        lease.release()


@dataclass(frozen=True)
class _SeenLease:
    """A lease as another process finds it."""

    number: int
    text: bytes

    @property
    def holder(self) -> dict[str, str]:
        """Who holds it; empty while it is being written."""
        try:
            found: dict[str, str] = json.loads(self.text)
        except ValueError:
            return {}
        return found


def _acquire(folder: Path, uri: str, stop: Stop) -> "Lease":
    """Wait until nobody holds the folder, and take it."""
    beat = float(os.environ.get(BEAT_VARIABLE, 5))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        before, looks = None, 0
        while True:
            stop.check()
            seen = _newest(folder)
            looks = looks + 1 if seen == before else 0
            before = seen
            if seen is None or looks >= LOOKS or _is_dead(folder, seen):
                lease = Lease.claim(folder, seen.number if seen else 0, beat)
                if lease:
                    if seen:
                        say("writer", tookOverFrom=seen.holder.get("name", "a trainer that is gone"))
                    return lease
                continue
            # `warn` says it only once.
            warn(
                WarningReason.FOLDER_IN_USE,
                f"another trainer, of host name {seen.holder.get('name', '?')}, writes to {uri}: this one "
                f"waits until it has ended, or shown no life for {LOOKS * beat:.0f} s. If it should not "
                "run, delete its pod",
            )
            time.sleep(beat)


class Lease:
    """The lease of a folder, held by this process."""

    def __init__(self, folder: Path, number: int, beat: float) -> None:
        """Create its file.

        Raises:
            FileExistsError: another process has that number.
        """
        self._folder, self._beat = folder, beat
        self._take(number)
        self._lost = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    @classmethod
    def claim(cls, folder: Path, after: int, beat: float) -> "Lease | None":
        """Take the folder over from a dead holder; 0: there was none. None: another process was faster.

        Raises:
            OSError: the folder cannot be written.
        """
        try:
            lease = cls(folder, after + 1, beat)
        except FileExistsError:
            return None
        if not lease._confirm(after):
            return None
        lease._thread.start()
        return lease

    def check(self) -> None:
        """Check that this process still holds the folder, before anything is renamed into place.

        Raises:
            Superseded: another trainer has taken the folder over.
            StorageError: the folder cannot be written.
        """
        with self._lock:
            try:
                self._renew_if_silent()
            except OSError as error:
                raise cannot_write(self._path, error) from error
            if self._lost:
                raise Superseded(
                    f"another trainer writes to {self._folder.name} now, since this one {self._lost}: it "
                    "writes nothing more"
                )

    def release(self) -> None:
        """Free the folder for others at once."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            if not self._lost:
                with suppress(FileNotFoundError):
                    self._path.unlink()
            os.close(self._file)

    def _take(self, number: int) -> None:
        path = self._folder / f".writer-{number}"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._number, self._path = number, path  # not if it could not be made: the former is held still
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            boot = _BOOT.read_text().strip()
        except OSError:  # Not every file system has locks. Then others wait.
            boot = ""
        self._holder = {"name": socket.gethostname(), "process": str(os.getpid()), "boot": boot}
        self._beats = 0
        self._write()

    def _write(self) -> None:
        """Beat: change the content that others look at."""
        began = _now()
        self._beats += 1
        text = json.dumps(self._holder | {"beats": f"{self._beats:012}"}) + "\n"
        os.pwrite(self._file, text.encode(), 0)
        os.fsync(self._file)
        self._beaten = began

    def _confirm(self, after: int) -> bool:
        """Whether the number that was won counts: it is the highest, and the one before was there until now.
        If so, the older files are removed; if not, its own."""
        numbers = _numbers(self._folder)
        if max(numbers, default=0) > self._number or (after and after not in numbers):
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            return False
        for number in numbers:
            if number < self._number:
                (self._folder / f".writer-{number}").unlink(missing_ok=True)
        return True

    def _renew_if_silent(self) -> None:
        """After a long silence, win the next number, as any other process would have to."""
        silence = _now() - self._beaten
        if self._lost or silence <= SURE_BEATS * self._beat:
            return
        number, file, why = self._number, self._file, f"showed no life for {silence:.0f} s"
        try:
            self._take(number + 1)
        except FileExistsError:
            self._lost = why
            return
        if self._confirm(number):
            os.close(file)
        else:
            self._file, self._lost = file, why

    def _run(self) -> None:
        while not self._ended.wait(self._beat):
            with self._lock:
                try:
                    self._renew_if_silent()
                    if self._lost:
                        return
                    if not os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                        raise FileNotFoundError
                    self._write()
                except OSError as error:
                    if error.errno is None or error.errno in _GONE:
                        self._lost = "was taken for dead"
                        return
                    say("writer", text=f"the lease could not be renewed and will be again: {error}")


def _newest(folder: Path) -> _SeenLease | None:
    """The lease with the highest number; None: there is none."""
    for number in sorted(_numbers(folder), reverse=True):
        try:
            return _SeenLease(number, (folder / f".writer-{number}").read_bytes())
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return None


def _numbers(folder: Path) -> list[int]:
    return [int(found[1]) for name in os.listdir(folder) if (found := _NAME.fullmatch(name))]


def _is_dead(folder: Path, seen: _SeenLease) -> bool:
    """Whether the holder ran under this kernel and has ended."""
    boot = seen.holder.get("boot")
    if not boot or not _BOOT.exists() or _BOOT.read_text().strip() != boot:
        return False
    try:
        file = os.open(folder / f".writer-{seen.number}", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)


def _now() -> float:
    """Seconds by a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
