"""From files to batches: read -> formats -> holdout -> encode -> mixture and packing."""
