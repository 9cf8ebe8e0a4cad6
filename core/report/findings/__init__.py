"""From a study's folder to numbers with intervals: read, compared, generalized.

Not here: words: a finding is numbers, and ``report/verdicts`` says what they mean.
"""
