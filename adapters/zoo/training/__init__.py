"""Training of the built-in checkpoints. Not part of the wheel."""
