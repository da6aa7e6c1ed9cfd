"""Encode and search a table in shards: by processes of one machine, or over a Ray cluster."""
