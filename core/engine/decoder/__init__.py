"""Reducing the sequence before the layers of a decoder."""
