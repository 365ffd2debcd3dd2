"""Training under every condition: optimizers, precisions, compilation, many processes."""
