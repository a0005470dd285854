"""Plots, images and volumes: curves, scatters, slices, and the 3D view."""
