"""Every penalty on a small network, under every optimizer, precision and number of processes."""
