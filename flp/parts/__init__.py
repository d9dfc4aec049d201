"""What several algorithms are made of: their interface, actors, values, and policies of latents, flow or noise."""
