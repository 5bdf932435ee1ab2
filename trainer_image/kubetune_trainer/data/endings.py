"""Which files are data, by the ends of their names."""

ENDINGS = (
    ".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".txt", ".txt.gz", ".txt.zst", ".parquet",
)  # fmt: skip
KNOWN = ".jsonl, .json, .txt or .parquet (.jsonl and .txt also with .gz or .zst)"
"""The same for messages."""


def kind_of(name: str) -> str | None:
    """.jsonl, .json, .txt or .parquet, whether it is compressed or not; None of a file that is no data."""
    ending = next((e for e in ENDINGS if name.endswith(e)), None)
    return None if ending is None else f".{ending.split('.')[1]}"
