"""A cache that is there: described, verified, merged and repaired."""
