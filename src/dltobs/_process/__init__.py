"""The process: which one it is, how it ends by a signal, and how long anything may take."""
