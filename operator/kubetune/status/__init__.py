"""(resource, observed, now) -> status. Pure. Every owned condition is set each time; else Unknown."""
