"""Which files are data, by their extensions."""

TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
"""Each may be followed by one of `PACKED`."""
PACKED = (".gz", ".zst")
ENDINGS = (*(text + packed for text in TEXTS for packed in ("", *PACKED)), ".parquet")
KNOWN = ".jsonl, .json, .csv, .tsv, .txt or .parquet (all but .parquet also with .gz or .zst)"
"""`ENDINGS` in words, for messages."""


def kind_of(name: str) -> str | None:
    """.jsonl, .json, .csv, .tsv, .txt or .parquet, compressed or not; None if the file is not data."""
    ending = next((e for e in ENDINGS if name.endswith(e)), None)
    return None if ending is None else f".{ending.split('.')[1]}"
