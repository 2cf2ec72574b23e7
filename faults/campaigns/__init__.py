"""The fault campaigns, one file each."""
