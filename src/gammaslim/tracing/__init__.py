"""From a network and example inputs to its channel graph."""

from gammaslim.tracing.tracer import trace

__all__ = ["trace"]
