"""The gate: whatever a plugin answers is checked here, whoever asked, before anything uses it.

Not here: the public conformance suite, which tries a plugin out (``testing``).
"""
