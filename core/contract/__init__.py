"""What plugins are written against: components, signals, views, adapters, tasks."""
