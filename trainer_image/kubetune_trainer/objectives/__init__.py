"""Objectives: what is learned. Each module has a HEAD, `prepare` (reads the data), `loss_model` (makes a
model whose forward pass is the loss and whose `measure` is the evaluation) and `samples` (answers sample
prompts). A new stage is one more module."""
