"""OGBench's robot arm: its environments and its planned controllers, to the same bytes in less time."""
