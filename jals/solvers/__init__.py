"""What goes from factors to better ones: ALS, its accelerations, optax on the same loss; what they share."""
