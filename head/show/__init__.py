"""What results look like: figures, attention maps over images, and pages. Needs matplotlib, an extra, to draw."""
