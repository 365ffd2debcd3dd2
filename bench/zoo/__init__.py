"""Real networks, each cut and checked from outside: the list, the measurements, the page."""
