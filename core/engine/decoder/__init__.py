"""Reducing the sequence in front of the layers of a decoder."""
