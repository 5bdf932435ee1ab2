"""The CustomResourceDefinitions and docs/reference.md, from the models in operator/kubetune/api."""
