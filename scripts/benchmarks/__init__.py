"""Benchmarks, a folder a subject: run one with `python scripts/benchmarks/SUBJECT`."""
