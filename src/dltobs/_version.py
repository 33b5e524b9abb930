"""The version of dltobs."""

__version__ = "0.1.0"
