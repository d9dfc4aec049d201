"""Training of R runs at once: optimizers, target networks, transitions on the device, the inner loop."""
