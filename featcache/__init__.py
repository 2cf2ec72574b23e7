"""Stage 1 and the feature store: images in, a verified cache of frozen feature maps out. Knows nothing of heads."""
