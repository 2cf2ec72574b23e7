"""Heads that leave this machine: ONNX graphs, model cards, exported folders, and the Hugging Face Hub."""
