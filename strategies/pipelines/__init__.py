"""Presets: published methods and baselines as YAML."""
