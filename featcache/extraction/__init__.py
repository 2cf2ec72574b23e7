"""From a dataset to a cache."""
