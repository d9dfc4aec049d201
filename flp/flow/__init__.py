"""The behaviour flow: its velocity field and ODE, how it is trained, stored, inverted and judged."""
