"""Heads that are trained by gradients: epochs, early stopping or cross-validation, checkpoints."""
