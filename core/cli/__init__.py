"""The command line: ``tokensieve COMMAND``. Light to import; torch comes with the first model."""
