"""Flow Latent Policies: offline reinforcement learning in the latent space of a frozen flow."""

__version__ = "0.1.0"
