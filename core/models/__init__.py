"""Models: found, loaded, and seen through their adapter.

Not here: where things are in a family (``adapters``), and whether a pipeline fits it
(``pipeline``).
"""
