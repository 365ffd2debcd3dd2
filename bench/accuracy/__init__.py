"""Accuracy at a given number of multiply-accumulates: the data, and the networks."""
