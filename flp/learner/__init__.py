"""What is learnt by gradient, R runs at once: networks, optimizers, transitions on the device, the inner loop."""
