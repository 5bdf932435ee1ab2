"""What is trainable. Each module has the functions of `Method`; a new method is one more module."""
