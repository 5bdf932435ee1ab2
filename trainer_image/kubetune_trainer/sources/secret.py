"""Credentials of a source: the mounted folder of its Secret, one file per key."""

from dataclasses import dataclass
from pathlib import Path

from kubetune.api.runspec import RunSecret
from kubetune_trainer.errors import DataError

AUTHORITY = "ca.crt"


@dataclass(frozen=True)
class Secret:
    """A Secret, or none. Its values are read only when needed, and never shown."""

    where: str
    """The source, for messages."""
    mounted: RunSecret | None

    def __str__(self) -> str:
        return f"Secret {self.mounted.name}" if self.mounted else "no Secret"

    def get(self, key: str) -> str | None:
        """The value of a key.

        Raises:
            DataError: it is not a single line of text.
        """
        path = self.file(key)
        if path is None:
            return None
        try:
            value = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.where}: key {key} of {self} cannot be read: correct it") from error
        if not value.isprintable() or not value:
            raise DataError(f"{self.where}: key {key} of {self} must be one line of text: correct it")
        return value

    def need(self, key: str, because: str) -> str:
        """The value of a key that another key requires.

        Raises:
            DataError: there is none.
        """
        value = self.get(key)
        if value is None:
            raise DataError(f"{self.where}: {self} has {because} but no key {key}: add it")
        return value

    def file(self, key: str) -> Path | None:
        """The file of a key, for libraries that read it themselves; None: there is none."""
        path = Path(self.mounted.path, key) if self.mounted else None
        return path if path and path.is_file() else None

    def require_one_of(self, *keys: str) -> None:
        """Refuse a Secret without any useful key, because a key is probably misspelt.

        Raises:
            DataError: it has none of the keys.
        """
        if self.mounted and not any(self.file(key) for key in keys):
            raise DataError(
                f"{self.where}: {self} has none of the keys {', '.join(keys)}: add what is needed"
            )
