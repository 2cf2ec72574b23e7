"""Trained heads on new images."""
