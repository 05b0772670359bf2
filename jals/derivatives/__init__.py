"""A fit as a differentiable function: through its sweeps, or at the stationary point."""
