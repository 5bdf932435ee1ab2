"""What a gateway counts. Labels are bounded: a model that is not served counts as `model="unknown"`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "kubetune_gateway_requests",
            "Requests answered.",
            ["model", "endpoint", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "kubetune_gateway_request_seconds",
            "Time from request to the end of the answer.",
            ["model", "endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_chunk_seconds = Histogram(
            "kubetune_gateway_time_to_first_chunk_seconds",
            "Time from request to the first chunk of a streamed answer.",
            ["model", "endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "kubetune_gateway_requests_in_flight",
            "Requests being answered.",
            ["model"],
            registry=self.registry,
        )
        self.load_seconds = Histogram(
            "kubetune_gateway_adapter_load_seconds",
            "Time to copy, verify and load an adapter.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "kubetune_gateway_adapter_refused",
            "Attempts to serve an adapter that failed.",
            ["reason"],
            registry=self.registry,
        )
        self.adapters = Gauge(
            "kubetune_gateway_adapters", "Adapters of the table by phase.", ["phase"], registry=self.registry
        )
        self.loaded = Gauge(
            "kubetune_gateway_adapter_versions_loaded",
            "Versions in the engine, draining ones included.",
            registry=self.registry,
        )
        self.active = Gauge(
            "kubetune_gateway_adapter_versions_active",
            "Versions that a request is using now.",
            registry=self.registry,
        )
        self.engine_up = Gauge(
            "kubetune_gateway_engine_up", "Whether the engine answers.", registry=self.registry
        )
        self.engine_restarts = Gauge(
            "kubetune_gateway_engine_restarts", "How often the engine was lost.", registry=self.registry
        )

    def forget(self, model: str) -> None:
        """Drop the series of a model that is no longer served; its last request has ended."""
        for metric in (self.requests, self.seconds, self.first_chunk_seconds, self.in_flight):
            metric.remove_by_labels({"model": model})
