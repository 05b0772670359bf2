"""A fit as a differentiable function: through its sweeps, or at the point that they head for."""
