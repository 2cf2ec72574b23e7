"""Families of backbones: each makes an extractor of a name, a module that gives the layers asked for."""
