"""Chat templates: programs of strangers, run with their steps counted.

Not here: which template a model has (``models``, ``adapters``).
"""
