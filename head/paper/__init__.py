"""The tables of the AMNet paper, every system trained and scored anew on one dataset."""
