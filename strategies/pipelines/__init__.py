"""Presets: published methods and baselines as YAML.

Not here: Python: a preset is a YAML file.
"""
