"""Frozen networks: pixels in, features out."""
