"""Get public datasets: download, check and unpack their archives."""
