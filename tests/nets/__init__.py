"""Tiny networks for the laws, one awkward habit each."""
