"""Pipelines as data: read, validated, and their budgets counted."""
