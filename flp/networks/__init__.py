"""Networks of R runs side by side: one batched matrix product per layer."""
