"""Files that somebody else wrote, read so that nothing is lost; files of ours, written whole.

Not here: what the keys of a file mean: ``pipeline`` and ``study/spec`` know that. Folders of
results are in ``study/store``.
"""
