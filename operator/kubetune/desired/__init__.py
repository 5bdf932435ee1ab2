"""What should be: one builder per kind of child, (resource, context) -> Kubernetes objects. Pure."""
