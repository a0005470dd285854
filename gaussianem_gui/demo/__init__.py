"""The demo: a spliceosome with known motion, simulated, and recovered through a project and its jobs."""
