"""Standard benchmarks through lmms-eval (extra ``[lmms]``), as tasks of a study and as its model.

Not here: running a model for a benchmark (``study/work``). Nothing of lmms-eval is imported before
a benchmark is planned or run: that takes many seconds.
"""
