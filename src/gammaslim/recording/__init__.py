"""One labelled run of a network: what rules talk to."""
