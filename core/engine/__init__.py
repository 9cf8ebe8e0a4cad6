"""The one mechanism: reduce the sequence in pre-hooks of the decoder layers."""
