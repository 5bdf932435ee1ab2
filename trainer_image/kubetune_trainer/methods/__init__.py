"""Methods: which weights are trained. Each module is a `Method`; a new method is one more module."""
