"""Finding plugins and keeping what they add.

Not here: what a plugin has to be (``contract``), and what it answers (``gate``).
"""
