"""From a cache to batches for a head."""
