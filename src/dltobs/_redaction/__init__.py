"""Takes secrets out of everything that leaves: which values are secret, and where they stand."""
