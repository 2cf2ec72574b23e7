"""The cache on disk, written and read."""
