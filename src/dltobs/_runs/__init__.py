"""Watches the runs of dlt's pipelines, and makes events of what happens in them."""
