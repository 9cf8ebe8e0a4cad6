"""Tables of a report: the same rows for HTML, Markdown and CSV.

Not here: how a table is written as HTML or Markdown (``report``), and what is in it to be said
(``report/verdicts``).
"""
