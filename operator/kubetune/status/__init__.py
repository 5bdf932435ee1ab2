"""(resource, observed, now) -> status. Pure. Every condition of a kind is set each time, to Unknown where
nothing was observed."""
