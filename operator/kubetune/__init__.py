"""kubetune: train language models on Kubernetes and serve the adapters that pass."""
