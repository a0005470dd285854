"""A project as files, without Qt: RELION's graph, jobs, inputs, locks, trash, repair and settings."""
