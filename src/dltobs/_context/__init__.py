"""Which run the current code belongs to, in threads, child processes and on other hosts, too."""
