"""Which version of kubetune this is."""

from importlib.metadata import version

VERSION_TEXT = f"kubetune {version('kubetune')}"
"""What `--version` prints."""
