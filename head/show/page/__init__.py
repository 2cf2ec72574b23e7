"""One page about a cache and its runs: as a file that needs nothing else, and served here with live prediction."""
