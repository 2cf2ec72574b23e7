"""Where a head looks, or what its score hangs on, and whether maps tell that."""
