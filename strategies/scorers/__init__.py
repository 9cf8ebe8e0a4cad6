"""Scorers: signals in, one importance per visual token out.

Not here: normalizing, weighting and adding of scores (``core/pipeline/scoring.py``).
"""
