"""The `kubetune` command."""
