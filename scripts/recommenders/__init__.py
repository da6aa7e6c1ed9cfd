"""Recommenders that learn from pairs of users and items, over any table of embeddings."""
