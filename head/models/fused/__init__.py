"""The attention LSTM on CPUs as few large operations, with gradients written out, behind one switch."""
