"""What is learned. Each module has one function `prepare(spec, ...) -> Prepared`; a new stage is one more."""
