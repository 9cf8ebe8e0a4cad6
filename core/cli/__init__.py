"""The command line: ``tokensieve COMMAND``. Light to import; torch comes with the first model.

Not here: what a command does once its options are read: each command has a room for that. How text
is escaped and a run stopped is in ``output``.
"""
