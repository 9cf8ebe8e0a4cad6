"""One question about one picture, answered with and without pruning."""
