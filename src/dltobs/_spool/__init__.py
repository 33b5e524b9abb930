"""Keeps on disk what a back end did not take, and sends it later."""
