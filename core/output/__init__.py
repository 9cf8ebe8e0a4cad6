"""Text on the terminal, streams and signals: what people see, and how they stop it.

Not here: what a command has to say (``cli``), and the page of a report (``report``).
"""
