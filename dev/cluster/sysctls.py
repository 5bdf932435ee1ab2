"""Kernel settings that the cluster changes: remembered before it starts, restored when it is stopped."""

import json
from pathlib import Path

# Pods reach Services through the host; the others are set by kubelet.
_FORWARD = "net/ipv4/ip_forward"
_CHANGED = (
    _FORWARD,
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_ROOT = Path("/proc/sys")


def change(memory: Path) -> None:
    """Remember the settings in a file (unless a crashed cluster has left it there), allow forwarding."""
    if not memory.exists():
        values = {name: (_ROOT / name).read_text().strip() for name in _CHANGED if (_ROOT / name).exists()}
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(values))
    (_ROOT / _FORWARD).write_text("1")


def restore(memory: Path) -> None:
    """Put back what was remembered."""
    if memory.exists():
        for name, value in json.loads(memory.read_text()).items():
            (_ROOT / name).write_text(value)
        memory.unlink()
