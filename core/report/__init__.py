"""The report of a study: verdicts, figures and tables on one page."""
