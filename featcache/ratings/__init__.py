"""From what people answered, rating by rating or trial by trial, to scores of images and their reliability."""
