"""How long gammaslim and Torch-Pruning take, measured alternately in one process."""
