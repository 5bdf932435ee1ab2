"""The trainer on a GPU: its tests, and its speed and memory beside those of transformers' Trainer."""
