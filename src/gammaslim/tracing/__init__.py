"""From a network and example inputs to its channel graph."""
