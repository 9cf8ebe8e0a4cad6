"""Text on the terminal, standard streams, and the signals that stop a command."""
