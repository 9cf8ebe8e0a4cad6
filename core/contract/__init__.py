"""What plugins are written against: components, signals, views, adapters, tasks.

Not here: checks of what a plugin answers (``gate``), and how it is found (``plugins``).
"""
