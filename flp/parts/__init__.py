"""What several algorithms are made of: their interface, actors, values, latent policy, flow and diffusion policies."""
