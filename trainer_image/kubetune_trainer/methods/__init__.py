"""What is trainable. Each module has what `Method` says; a new method is one more module."""
