"""The attention LSTM as few large operations, with gradients written out, behind one switch."""
