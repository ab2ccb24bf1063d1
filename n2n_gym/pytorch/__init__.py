"""Everything that needs torch: tracing, building, inheriting weights, training."""
