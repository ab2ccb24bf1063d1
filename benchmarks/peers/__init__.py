"""n2n-gym and today's pruners on real images, side by side."""
