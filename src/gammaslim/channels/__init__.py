"""The records: what a channel is, and what a set of kept ones implies; numpy only."""
