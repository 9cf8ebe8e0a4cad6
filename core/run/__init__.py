"""One question about one picture, answered with and without pruning.

Not here: many questions and their scores (``study``).
"""
