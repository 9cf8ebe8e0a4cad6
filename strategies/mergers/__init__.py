"""Mergers: what becomes of the tokens that were not selected.

Not here: writing merged vectors into the sequence (``core/engine``).
"""
