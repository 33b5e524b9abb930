"""Sets dltobs up in the worker processes in which dlt normalizes."""
