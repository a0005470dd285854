"""Files that ship with the program (guide, icons, queue templates)."""
