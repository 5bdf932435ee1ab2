"""The model's own answers as data: drawn, rewarded, weighed, trained on. What ppo and grpo share."""
