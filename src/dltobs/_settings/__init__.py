"""What the user has asked for: in arguments, the environment, dlt's files, OpenTelemetry's variables."""
