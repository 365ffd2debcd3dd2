"""Scores and a target in, a plan out."""
