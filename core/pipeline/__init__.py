"""Pipelines as data: read, validated, and their budgets counted.

Not here: what a stage does to a running model (``engine``).
"""
