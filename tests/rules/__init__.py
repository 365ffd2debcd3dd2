"""One small network per operator, with its channels worked out by hand."""
