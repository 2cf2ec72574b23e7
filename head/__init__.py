"""Stage 2: heads fitted on cached features, scored, and used on new images. Knows the cache only by its API."""
