"""GaussianEM's projects, jobs and desktop application."""
