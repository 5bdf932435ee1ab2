"""What is learned. Each module has a HEAD, `prepare` (the data), `loss_model` (a model whose forward pass is
the loss, and its `measure` the evaluation) and `samples` (answers to sample prompts). A new stage is one more
module."""
