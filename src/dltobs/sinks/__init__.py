"""Where events go: one file, one sink. They are imported where they are switched on."""
