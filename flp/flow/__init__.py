"""The behaviour flow: its velocity field and ODE, how it is fitted, kept, inverted and judged."""
