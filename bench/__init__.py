"""Measurements anyone can repeat: python -m bench.NAME prints one JSON line of figures taken in one run."""
