"""One cell turned into its result."""
