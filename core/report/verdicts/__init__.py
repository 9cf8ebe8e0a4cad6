"""Sentences made from numbers: every verdict of a report is worded here.

Not here: computing a number (``report/findings``), and where a verdict is on the page
(``report``).
"""
