"""Prometheus metrics of the operator."""

from prometheus_client import Counter, Gauge, Histogram

LEADER = Gauge("kubetune_leader", "1 in the replica that reconciles, 0 in those that stand by")
WRITES = Counter("kubetune_api_writes_total", "Requests to the API server that write", ["verb", "resource"])
WRITE_ERRORS = Counter(
    "kubetune_api_write_errors_total",
    "Requests to the API server that write and failed, by its answer; 0: none",
    ["verb", "resource", "code"],
)
UNSYNCED = Gauge("kubetune_unsynced", "Resources at which the last look failed", ["kind"])
RECONCILES = Counter("kubetune_reconciles_total", "Reconciles by outcome", ["kind", "outcome"])
RECONCILE_SECONDS = Histogram("kubetune_reconcile_seconds", "Duration of a reconcile", ["kind"])
QUEUE_DEPTH = Gauge("kubetune_queue_depth", "Resources waiting for a worker")
QUEUE_AGE = Gauge("kubetune_queue_oldest_seconds", "How long the oldest of them has been waiting")
WATCH_LAG = Gauge("kubetune_watch_lag_seconds", "How long the watches have not told what lists showed")
RESYNC_AGE = Gauge("kubetune_resync_age_seconds", "Time since all resources were listed successfully")
JOBS = Gauge("kubetune_jobs", "Training jobs", ["kind", "phase"])
PROGRESS = Counter("kubetune_progress_posts_total", "Progress posts of trainers by answer", ["code"])
