"""Messages of kubelet, scheduler and API server without the parts that differ at each try. Pure.

A random name, folder or port would make the same fault look new: there would be another event and another
write of the status each time.
"""

import re

POD = "<pod>"
_GENERATED = "[bcdfghjklmnpqrstvwxz2456789]{5}"
"""How the API server ends a generated name."""
_LONGEST_BASE = 55
"""So much of a Job's name is in its pods' names (kubernetes/pkg/controller/job/indexed_job_utils.go)."""
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FOLDER = re.compile(rf'[^\s"=]*/pods/{_UUID}(?=[/\s":]|$)')
_VARYING = (
    # what varies, and what stands for it
    (_FOLDER, "<folder of the pod>"),
    (re.compile(r"(?<!sha256:)\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"/proc/\d+/"), "/proc/<pid>/"),
    # A network namespace, and what systemd-run calls a mount.
    (re.compile(rf"\bcni-{_UUID}"), "cni-<id>"),
    (re.compile(r"\brun-r?[0-9a-f]+\.scope\b"), "<scope>"),
    # The local end of a connection.
    (re.compile(r'[^\s"]+:\d+->'), ""),
    (re.compile(r'(https?://[^\s"?]+)\?[^\s"]*'), r"\1"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"), "<time>"),
    # vLLM's log: (EngineCore pid=71) ERROR 11-30 21:04:28 [core.py:946]
    (re.compile(r"\bpid=\d+"), "pid=<pid>"),
    (re.compile(r"\b\d\d-\d\d \d\d:\d\d:\d\d\b"), "<time>"),
    (re.compile(r"\b0x[0-9a-f]{6,16}\b"), "<address>"),
    (re.compile(r"(?i)\b((?:request|host|trace|correlation)[ -]?id)\b[:=]? ?[^\s,;\"]+"), r"\1 <id>"),
    (re.compile(r"(?i)\bback-off \d\S*"), "back-off"),
    # What others use at that time.
    (re.compile(r", used: .*?(?=, (?:capacity|limited): )"), ""),
    (re.compile(r", available: \S+?(?=\.? |\.?$)"), ""),
    (
        re.compile(r"was using \S+, request is (\S+), has larger consumption of ([^\s.]+)"),
        r"was using more \2 than its request of \1",
    ),
)
_LISTED = re.compile(r"=\[([^\]]*)\]")


def steady(text: str, *, pod: str = "", uid: str = "", owner: str = "") -> str:
    """The text without what varies.

    Args:
        text: a message.
        pod: name of the pod that it is about, where that is known.
        uid: its UID.
        owner: name of the Job or Deployment that the pod belongs to, or would belong to.
    """
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    if pod:
        text = text.replace(pod, POD)
    if uid:
        text = text.replace(uid, "<uid>").replace(uid.replace("-", "_"), "<uid>")
    if owner:
        base = re.escape(owner[:_LONGEST_BASE])
        text = re.sub(rf"(?<![-a-z0-9]){base}[-a-z0-9]*-{_GENERATED}(?![a-z0-9])", POD, text)
    # The kubelet lists volumes in no order.
    return _LISTED.sub(lambda found: f"=[{' '.join(sorted(found[1].split()))}]", text)
