"""How the built-in checkpoints were trained. Not part of the wheel."""
