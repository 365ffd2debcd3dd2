"""Measurements beside peers, and the zoo of real networks."""
