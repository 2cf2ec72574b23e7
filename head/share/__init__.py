"""Heads that leave this machine, and come from others: ONNX graphs, model cards, exported and imported folders."""
