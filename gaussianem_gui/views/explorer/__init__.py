"""The latent explorer's page: linked plots, the molecule in 3D, and the panels below it."""
