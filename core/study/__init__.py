"""The study: models x pipelines x budgets x tasks x seeds, kept in a folder and reported on."""
