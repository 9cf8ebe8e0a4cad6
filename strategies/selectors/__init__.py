"""Selectors: importances and a budget in, the tokens that stay out.

Not here: how many tokens stay: a budget is counted before (``core/pipeline/budgets.py``).
"""
