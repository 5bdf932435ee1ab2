"""Tasks of the Language Model Evaluation Harness: their data sets, and the model measured on them."""
