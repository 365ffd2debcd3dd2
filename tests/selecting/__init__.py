"""Scores and targets to plans."""
