"""From a cache to a run."""
