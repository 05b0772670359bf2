"""The solvers: ALS, its accelerations, optax optimizers on the same loss; and what they share."""
