"""Read embeddings and labels, save and load artifacts, write files atomically."""
