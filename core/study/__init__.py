"""The study: models x pipelines x budgets x tasks x seeds, kept in a folder and reported on.

Not here: one step of it: reading the file, planning, working, keeping results and estimating have
a room each.
"""
