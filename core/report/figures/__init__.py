"""Figures of a report, as SVG.

Not here: the numbers that are drawn (``report/findings``).
"""
