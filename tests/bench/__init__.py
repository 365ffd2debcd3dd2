"""The benchmarks themselves: what they count, and whether they can be wrong."""
