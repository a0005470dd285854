"""The models behind the latent explorer, without Qt: sources, selections, pictures, decoder process, and jobs made
there."""
