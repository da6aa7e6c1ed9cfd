"""Indexes: exact, inverted and compressed search, on a CPU and on a GPU."""
