"""Which images, which scores, which splits."""
