"""Records of channels: graphs, plans, costs, sequences."""
