"""The one mechanism: reduce the sequence in pre-hooks of the layers. Shared by both engines.

Not here: what only a decoder (``engine/decoder``) or only an encoder (``engine/encoder``) has, and
what a stage says (``pipeline``).
"""
