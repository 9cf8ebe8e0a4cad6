"""Is a pipeline faster here? Measured against the untouched model, in the same process.

Not here: FLOPs and budgets on paper (``pipeline``), and what an answer is worth (``study``).
"""
