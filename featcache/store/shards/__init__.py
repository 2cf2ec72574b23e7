"""One shard: its format, its codec and encoding, written and read."""
