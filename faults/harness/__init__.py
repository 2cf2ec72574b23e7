"""What the fault campaigns run on."""
