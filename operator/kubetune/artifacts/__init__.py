"""Artifacts on disk: digest and manifest. Written by trainers, verified by gateways."""
