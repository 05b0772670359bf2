"""Results and certificates that were never computed, for tests of how they are shown."""

import jax
import jax.numpy as jnp
import numpy as np

import jals


def result(factors: jals.Factors, sweeps: int, every: int = 1, seed: int = 0) -> jals.Result:
    """Of a fit that was validated, and went down all the way."""
    at = list(range(0, sweeps + 1, every))
    falls = np.sort(np.random.default_rng(seed).uniform(1.0, 2.0, (2, len(at))))[:, ::-1]
    loss, validation = (1000 * falls[0]).tolist(), falls[1].tolist()
    history = jals.History(at, loss, [0.25 * each for each in at], [2 * each for each in at], validation)
    factors = jax.tree.map(jnp.asarray, factors)
    return jals.Result(factors, jals.State(factors), history, 1.5, False, "sweeps", at[-1])


def certificate(factors: jals.Factors, worst: float = 1e-7) -> jals.Certificate:
    """One that holds, with the largest backward error `worst`, and a row of each kind at exactly 0."""
    users, items = (jnp.linspace(0, worst, len(rows), dtype=jnp.float32) for rows in (factors.user, factors.item))
    return jals.Certificate(users, items, items / 2, jnp.float32(1e-3))
