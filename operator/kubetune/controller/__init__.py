"""The only place that talks to the API server: gather what is, build what should be, apply, report."""
