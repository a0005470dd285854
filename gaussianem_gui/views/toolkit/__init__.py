"""What all views are built from: theme, widgets, notices, and work off the window's thread."""
