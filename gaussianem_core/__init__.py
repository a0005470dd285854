"""GaussianEM's engine: heterogeneity in cryo-EM with 3D Gaussians."""

__version__ = "0.1.0"
