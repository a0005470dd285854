"""Qt views: they watch models and never the reverse."""
