"""What the machine must have; missing Debian packages are installed where that is possible."""

import ipaddress
import json
import os
import platform
from pathlib import Path

from dev.cluster import cgroups, network, paths, shell
from dev.cluster.report import ClusterError, say

# program -> Debian package
_PACKAGES = {
    "openssl": "openssl",
    "setpriv": "util-linux",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "mount": "mount",
    "busybox": "busybox-static",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
# The longest path that a Unix socket may have is 107 bytes.
_LONGEST_SOCKET_FOLDER = 70


def programs(*names: str) -> None:
    """See to it that programs are installed.

    Raises:
        ClusterError: one is missing and cannot be installed.
    """
    missing = [name for name in names if shell.which(name) is None]
    if not missing:
        return
    packages = sorted({_PACKAGES[name] for name in missing})
    if os.geteuid() != 0 or shell.which("apt-get") is None:
        raise ClusterError(f"Install {', '.join(missing)} (Debian: {' '.join(packages)}) and try again.")
    say(f"installing Debian packages: {' '.join(packages)}")
    os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    if shell.attempt(*install).returncode:
        shell.run("apt-get", "update")
        shell.run(*install)


def for_size(size: str) -> None:
    """Check that this machine can run a size.

    Raises:
        ClusterError: it cannot; one sentence says what is missing.
    """
    if platform.system() != "Linux":
        raise ClusterError(
            "The local cluster needs Linux; elsewhere use kind with Docker, as README.md says at the end of "
            "`See it work`."
        )
    programs("openssl", "setpriv")
    if size == "full":
        _root()
        programs("runc", "nft", "ip", "mount", "busybox")
        for check in (_kernel, _static_busybox, _cgroups, _nftables, _addresses, _socket_path):
            check()


def _root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("The full cluster runs containers and a bridge of its own: run this as root.")


def _kernel() -> None:
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        shell.attempt("modprobe", "overlay")
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        raise ClusterError(
            "The kernel has no overlay file system, which containers need; load module overlay."
        )
    if not Path("/dev/kmsg").exists():
        raise ClusterError(
            "/dev/kmsg is missing, which kubelet reads; in a container, run it with --privileged."
        )


def _static_busybox() -> None:
    busybox = shell.which("busybox")
    assert busybox is not None
    if shell.attempt("ldd", busybox).returncode == 0:  # it fails on what is not dynamic
        raise ClusterError(
            "busybox is dynamically linked; install the Debian package busybox-static instead."
        )


def _cgroups() -> None:
    if missing := cgroups.missing_controllers():
        raise ClusterError(f"The cgroup controllers {', '.join(missing)} are not mounted at /sys/fs/cgroup.")


def _nftables() -> None:
    done = shell.attempt("nft", "--check", "add", "table", "ip", "kubetune-check")
    if done.returncode:
        raise ClusterError(f"nftables does not work here, which kube-proxy needs: {done.stderr.strip()}")


def _addresses() -> None:
    ours = [ipaddress.ip_network(text) for text in (network.POD_RANGE, network.SERVICE_RANGE)]
    for route in json.loads(shell.run("ip", "-json", "-4", "route", "show", "table", "all")):
        if route["dst"] == "default" or route.get("dev") == network.BRIDGE:
            continue
        taken = ipaddress.ip_network(route["dst"], strict=False)
        if taken.prefixlen and any(taken.overlaps(mine) for mine in ours):
            raise ClusterError(
                f"The machine routes {taken}, which the cluster's own addresses would overlap."
            )


def _socket_path() -> None:
    if len(str(paths.instances())) > _LONGEST_SOCKET_FOLDER:
        raise ClusterError(f"The cache's path {paths.cache()} is too long for sockets; set KUBETUNE_CACHE.")
