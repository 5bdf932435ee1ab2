"""HTTPS receiver of what trainers tell while they run."""
