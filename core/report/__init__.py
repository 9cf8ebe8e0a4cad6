"""From a study's folder to verdicts, tables and figures.

Not here: anything that runs a model: what a report needs is in the cells (``study/work`` writes
them).
"""
