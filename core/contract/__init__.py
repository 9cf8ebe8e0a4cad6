"""The contract with plugins: components, signals, views, adapters, tasks."""
