"""Which files are data, by the ends of their names."""

TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
"""Also with one of `PACKED`."""
PACKED = (".gz", ".zst")
ENDINGS = (*(text + packed for text in TEXTS for packed in ("", *PACKED)), ".parquet")
KNOWN = ".jsonl, .json, .csv, .tsv, .txt or .parquet (all but .parquet also with .gz or .zst)"
"""The same for messages."""


def kind_of(name: str) -> str | None:
    """.jsonl, .json, .csv, .tsv, .txt or .parquet, whether it is compressed or not; None of a file that is no
    data."""
    ending = next((e for e in ENDINGS if name.endswith(e)), None)
    return None if ending is None else f".{ending.split('.')[1]}"
