"""dlt's log lines: found, marked with the ids of their run, rendered without secrets, written."""
