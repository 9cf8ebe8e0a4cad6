"""What people see and how they stop it: text on the terminal, streams, signals."""
