"""Results on disk, written whole and checked when they are read."""
