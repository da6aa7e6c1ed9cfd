"""Encoding and training throughput of one core, beside faiss and another commit."""
