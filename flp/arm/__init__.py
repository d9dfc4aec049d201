"""Faster versions of OGBench's robot-arm environments and planned controllers, with identical results."""
