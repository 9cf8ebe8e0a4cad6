"""Scorers: signals in, one importance per visual token out."""
