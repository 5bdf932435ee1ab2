"""The container images of this checkout, built by buildah and put into the local cluster."""

from dev.images.build import build
from dev.images.load import load

__all__ = ["build", "load"]
