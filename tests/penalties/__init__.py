"""Penalties and schedules as functions of numbers."""
