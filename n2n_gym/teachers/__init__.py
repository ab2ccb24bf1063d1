"""Teachers: trained networks, made once and kept."""
