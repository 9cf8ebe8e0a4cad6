"""The pictures and questions of the built-in tasks."""
