"""Mergers: what becomes of the tokens that were not selected."""
