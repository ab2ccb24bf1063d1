"""All that is torch: tracing, building, inheriting weights, training."""
