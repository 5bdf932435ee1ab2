"""Command line of the local cluster."""

import argparse
import sys
from pathlib import Path

from dev.cluster import build, full, images, instance, paths, processes
from dev.cluster.components import BY_SIZE, COMPONENTS
from dev.cluster.report import ClusterError, Step, say

_FULL = paths.full().name


def main() -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments) or 0)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _up(arguments: argparse.Namespace) -> None:
    total = Step(f"{arguments.size} cluster")
    if arguments.size == "full":
        kubeconfig = full.up(audit=arguments.audit)
    else:
        folder = _folder(arguments.name or arguments.size)
        running = instance.kubeconfig_if_running(folder)
        kubeconfig = running or instance.start(arguments.size, folder, audit=arguments.audit).kubeconfig
    total.finish("up after ")
    say(f"export KUBECONFIG={kubeconfig}")


def _down(arguments: argparse.Namespace) -> None:
    name = arguments.name or _FULL
    total = Step(f"{name} cluster")
    if name == _FULL:
        full.down()
    else:
        instance.stop(_folder(name))
    total.finish("down after ")


def _status(_: argparse.Namespace) -> None:
    folders = sorted(paths.instances().glob("*/")) if paths.instances().exists() else []
    for folder in folders:
        daemons = sorted(f"{daemon.name} ({daemon.pid})" for daemon in processes.running(folder))
        state = "up" if _kubeconfig_if_running(folder.name) else "broken" if daemons else "down"
        print(f"{folder.name}: {state}\n  logs: {folder}/log")
        if daemons:
            print(f"  kubeconfig: {folder}/admin.kubeconfig\n  processes: {', '.join(daemons)}")
    if not folders:
        print("no cluster; start one with `python -m dev.cluster up`")


def _kubeconfig(arguments: argparse.Namespace) -> None:
    name = arguments.name or _FULL
    running = _kubeconfig_if_running(name)
    if running is None:
        raise ClusterError(f"The {name} cluster is not up; start it with `python -m dev.cluster up`.")
    print(running)


def _kubeconfig_if_running(name: str) -> Path | None:
    return full.kubeconfig_if_running() if name == _FULL else instance.kubeconfig_if_running(_folder(name))


def _bin(arguments: argparse.Namespace) -> None:
    print(build.ensure([arguments.program])[arguments.program])


def _build(arguments: argparse.Namespace) -> None:
    build.ensure(arguments.program or COMPONENTS)


def _import(arguments: argparse.Namespace) -> None:
    for source in arguments.source:
        images.load(Path(source))


def _images(_: argparse.Namespace) -> None:
    for name, digest in sorted(images.present().items()):
        if not name.startswith("sha256:"):  # containerd's second name for each
            print(f"{name}  {digest}")


def _prune(arguments: argparse.Namespace) -> None:
    instance.prune()
    build.prune()
    if arguments.images:
        full.forget_images()


def _folder(name: str) -> Path:
    return paths.instances() / name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dev.cluster", description="A real Kubernetes without Docker."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a cluster, or mend the one that is there")
    up.set_defaults(run=_up)
    up.add_argument("--size", choices=BY_SIZE, default="full")
    up.add_argument("--name", help="of an instance that is not full (default: the size)")
    up.add_argument("--audit", action="store_true", help="write log/audit.log")

    down = commands.add_parser("down", help="stop a cluster and remove all that it left on the machine")
    down.set_defaults(run=_down)
    down.add_argument("--name", help="of an instance that is not full")

    commands.add_parser("status", help="what runs").set_defaults(run=_status)

    kubeconfig = commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    kubeconfig.set_defaults(run=_kubeconfig)
    kubeconfig.add_argument("--name", help="of an instance that is not full")

    binary = commands.add_parser("bin", help="print the path of a program, built if need be")
    binary.set_defaults(run=_bin)
    binary.add_argument("program", choices=COMPONENTS)

    build_ = commands.add_parser("build", help="build programs (default: all)")
    build_.set_defaults(run=_build)
    build_.add_argument("program", nargs="*", choices=[[], *COMPONENTS])

    pictures = commands.add_parser("images", help="images of the full cluster").add_subparsers(
        required=True, metavar="COMMAND"
    )
    load = pictures.add_parser("import", help="import an OCI archive or an OCI layout folder")
    load.set_defaults(run=_import)
    load.add_argument("source", nargs="+")
    pictures.add_parser("list", help="names and digests").set_defaults(run=_images)

    prune = commands.add_parser("prune", help="remove old binaries and the state of clusters that do not run")
    prune.set_defaults(run=_prune)
    prune.add_argument(
        "--images", action="store_true", help="the imported images too (the cluster must be down)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
