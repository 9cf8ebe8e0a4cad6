"""The pictures and questions of the built-in tasks.

Not here: the tasks as plugins, with the scores of answers (``adapters/zoo/study_tasks.py``).
"""
