"""Files: readers of embeddings, saved artifacts, atomic writing."""
