"""Hand-made image descriptors: from the pixels of an image to numbers, without caches, recipes or torch."""
