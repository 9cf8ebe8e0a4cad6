"""Reducing the sequence between the blocks of an encoder of pictures."""
