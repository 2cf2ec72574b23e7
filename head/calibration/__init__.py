"""What ratings of images that a head was not fitted to say of its scores: calibration and prediction intervals."""
