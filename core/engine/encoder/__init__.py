"""The engine of encoders of pictures: reduce the sequence between their blocks.

Not here: prompts, caches and positions: an encoder has none (``engine/decoder``).
"""
