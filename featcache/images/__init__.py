"""From an image file to pixels, and from pixels to views."""
