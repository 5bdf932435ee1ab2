"""What every test can use."""

from hypothesis import HealthCheck, settings

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in (
        "cluster",
        "crds",
        "golden",
        "helm",
        "order",
        "s3",
        "world",
        "chaos",
        "crash",
        "family_option",
        "telling",
    )
]

# How long an example takes is the machine's matter, and what else it does.
settings.register_profile("kubetune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubetune")
