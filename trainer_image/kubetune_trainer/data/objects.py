"""JSON without repeated keys in an object, of which Python's json silently takes the last."""

import json
from collections import Counter


class RepeatedKey(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RepeatedKey(f"an object has the key {twice!r} twice")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Made once, because json.loads would make one for each record."""
