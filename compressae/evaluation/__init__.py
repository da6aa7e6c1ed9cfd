"""Judging compressed search against the dense baseline."""
