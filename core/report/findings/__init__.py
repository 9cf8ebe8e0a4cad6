"""From a study's folder to numbers with intervals: read, compared, generalized."""
