"""Where things lie. Everything is below the cache folder, outside the checkout."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The cache folder: $KUBETUNE_CACHE, else $XDG_CACHE_HOME/kubetune, else ~/.cache/kubetune."""
    if own := os.environ.get("KUBETUNE_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "kubetune"


def binaries() -> Path:
    """Built binaries: one folder per component's pins and flags."""
    return cache() / "bin"


def instances() -> Path:
    """State of each instance by name: data, certificates, configuration, logs."""
    return cache() / "cluster"


def image_store() -> Path:
    """containerd's content and snapshots: kept between starts, so that an image is imported once."""
    return cache() / "containerd"


def full() -> Path:
    """State of the full cluster, of which a machine has one."""
    return instances() / "full"
