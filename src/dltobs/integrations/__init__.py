"""Where others call dltobs: entry points of dlt and of OpenTelemetry. Each is imported when it is used."""
