"""Text on the terminal, standard streams, and the signals that stop a command.

Not here: what a command has to say (``cli``), and the page of a report (``report``).
"""
