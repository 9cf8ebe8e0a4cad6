"""The engine of vision-language models: reduce the sequence before layers of the decoder.

Not here: where things are in a model family (``adapters``), and what is decided at a boundary
(``engine``).
"""
