"""From a file to cells, each with all that its result depends on.

Not here: the keys of the file (``study/spec``), and how a cell is run (``study/work``).
"""
