"""Heads that are the rest of a network behind a layer, trained further."""
