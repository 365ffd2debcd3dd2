"""From a model to its channel graph."""
