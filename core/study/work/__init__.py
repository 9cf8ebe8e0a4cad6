"""One cell turned into its result.

Not here: where a worker runs (``study/executors``), and where the result goes (``study/store``).
"""
