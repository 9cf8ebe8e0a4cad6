"""Results on disk, written whole and checked when they are read.

Not here: what a result says (``study/work`` writes it, ``report`` reads it).
"""
