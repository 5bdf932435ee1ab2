"""A .json file that is one list, or an object around one, read in parts."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from kubetune_trainer.data import lines
from kubetune_trainer.data.objects import DECODER, RepeatedKey
from kubetune_trainer.errors import DataError

LIKELY = 8 << 20
"""Most characters of an object that is taken for a single record before its end is seen."""
_SPACE = re.compile(r"[ \t\r\n]*")


def numbered(path: Path, name: str, own: Collection[str] = ()) -> Iterator[tuple[int, object]] | None:
    """The members of the list, each with the line that it begins in; None if the file is no list.

    The list may be the only list of records in an object, as in {"data": [...]}.

    Args:
        path: the file, plain or compressed.
        name: for messages.
        own: names of a record's own fields. An object with one of them is itself a record.

    Raises:
        DataError: it is not JSON, a member is too long, or something follows the list; or an object holds
            several lists of records.
    """
    first = _Unread(path, name)
    if first.next() == "[":
        return _list(_Unread(path, name))
    whole = first.record() if first.next() == "{" else {}
    if whole is not None:
        lists = [key for key, value in whole.items() if _of_records(value)]
        if not lists or whole.keys() & set(own):
            return None
        _check_one(lists, first)
    return _wrapped(_Unread(path, name), set(own))


def _of_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _check_one(lists: list[str], unread: "_Unread") -> None:
    if len(lists) > 1:
        raise DataError(
            f"{unread.name}, line {unread.line}: holds several lists of records, "
            f"{' and '.join(map(repr, lists))}: put the one that is meant into a file of its own"
        )


def _list(unread: "_Unread") -> Iterator[tuple[int, object]]:
    """The members of a file that is one list."""
    unread.next()
    yield from _members(unread)
    if unread.next():
        raise DataError(
            f"{unread.name}, line {unread.line}: something follows the list: a .json file holds one list "
            "only; put each into a file of its own"
        )


def _wrapped(unread: "_Unread", own: set[str]) -> Iterator[tuple[int, object]]:
    """The members of the only list of records in an object."""
    unread.next()
    unread.skip(1)
    lists: list[str] = []
    while unread.next() != "}" or lists == []:
        key = unread.value() if unread.next() == '"' else None
        if not isinstance(key, str) or unread.next() != ":":
            raise unread.error("Expecting a property name and ':'")
        unread.skip(1)
        if unread.next() == "[" and key not in own and unread.after() == "{":
            _check_one([*lists, key], unread)
            lists.append(key)
            yield from _members(unread)
        else:
            unread.value()
        if unread.next() == ",":
            unread.skip(1)
        elif unread.next() != "}":
            raise unread.error("Expecting ',' or '}'")
    unread.skip(1)
    if unread.next():
        raise DataError(
            f"{unread.name}, line {unread.line}: something follows the object with the list {lists[0]!r}: "
            "put each into a file of its own"
        )


def _members(unread: "_Unread") -> Iterator[tuple[int, object]]:
    unread.skip(1)
    after = "["
    while True:
        char = unread.next()
        if char == "]" and after != ",":
            break
        if after == "}":
            if char != ",":
                raise unread.error("Expecting ',' or ']' after a record")
            unread.skip(1)
            after = ","
            continue
        line = unread.line
        yield line, unread.value()
        after = "}"
    unread.skip(1)


class _Unread:
    """What is not read yet of a .json file.

    Only a part of it is held, because a list may be larger than the memory, and is often one line.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.line = 1
        """Line of what comes next."""
        self.name = name
        self._pieces = lines.pieces(path, name)
        self._text, self._at = "", 0
        self._dropped = 0
        """Characters of the line before the held text."""

    def next(self) -> str:
        """Skip white space; the next character, or an empty string at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match
            count = len(match[0])
            if match.end() < len(self._text):
                self.skip(count)
                return self._text[self._at]
            if not self._more():
                self.skip(count)
                return ""

    def after(self) -> str:
        """The second next character, not counting white space; an empty string at the end."""
        while True:
            match = _SPACE.match(self._text, self._at + 1)
            if match and match.end() < len(self._text):
                return self._text[match.end()]
            if not self._more():
                return ""

    def record(self) -> dict[str, object] | None:
        """The next object, if nothing follows it, else {}; None if it is longer than LIKELY."""
        while len(self._text) - self._at <= LIKELY:
            try:
                found, end = DECODER.raw_decode(self._text, self._at)
            except RepeatedKey as error:
                raise self._unreadable(error) from error
            except (ValueError, RecursionError):
                if not self._more():
                    return {}
                continue
            self.skip(end - self._at)
            return found if isinstance(found, dict) and not self.next() else {}
        return None

    def skip(self, count: int) -> None:
        """Move on by that many characters."""
        self.line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def value(self) -> object:
        """The JSON value that comes next.

        Raises:
            DataError: there is none.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                ahead = error.pos - self._at
                if self._more():
                    continue
                raise self.error(error.msg, ahead) from error
            except (ValueError, RecursionError) as error:
                raise self._unreadable(error) from error
            self.skip(end - self._at)
            return value

    def _unreadable(self, error: Exception) -> DataError:
        problem = f"cannot be read ({error}): mend or remove the record"
        return DataError(f"{self.name}, line {self.line}: {problem}")

    def error(self, problem: str, ahead: int = 0) -> DataError:
        """An error about the text that many characters ahead."""
        at = self._at + ahead
        line = self.line + self._text.count("\n", self._at, at)
        begin = self._text.rfind("\n", 0, at)
        column = at - begin if begin >= 0 else self._dropped + at + 1
        return DataError(f"{self.name}, line {line}: not JSON ({problem} at column {column}): mend the file")

    def _more(self) -> bool:
        """Read on, until the unread text that is held is at least twice as long; whether there was more.

        Doubling avoids that a long record is decoded over and over.

        Raises:
            DataError: what is unread is longer than a record may be.
        """
        if len(self._text) - self._at > lines.LONGEST:
            raise DataError(
                f"{self.name}, line {self.line}: no record ends within {lines.LONGEST >> 20} MiB: mend or "
                "divide the one that begins here"
            )
        begin = self._text.rfind("\n", 0, self._at)
        self._dropped = self._at - begin - 1 if begin >= 0 else self._dropped + self._at
        held = [self._text[self._at :]]
        self._text, self._at = "", 0
        wanted, got = max(len(held[0]), 1), 0
        for piece in self._pieces:
            held.append(piece)
            got += len(piece)
            if got >= wanted:
                break
        self._text = "".join(held)
        return got > 0
