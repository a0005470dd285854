"""A project's jobs: their list and flow, and one job with its form, progress, results, files, notes and logs."""
