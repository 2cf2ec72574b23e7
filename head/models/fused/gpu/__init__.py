"""The loops over (image, position, channel) of the attention on a GPU, in Triton."""
