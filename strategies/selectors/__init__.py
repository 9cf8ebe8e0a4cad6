"""Selectors: importances and a budget in, the tokens that stay out."""
