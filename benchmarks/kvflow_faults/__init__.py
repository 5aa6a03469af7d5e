"""`kvflow faults`: what a server survives, and whether its answers stay right meanwhile."""
