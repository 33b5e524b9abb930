"""The process: which one it is, how it ends by a signal, how it forks, and how long anything may take."""
