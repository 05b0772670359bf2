"""What does the derivative of a held-out error in log lambda cost, by each way to it, as the fit gets longer?

In passes, seconds and the compiled program's temporary memory. All are derivatives of the sweeps that were run, but the
adjoint: that is of the point that they head for, and far from it another number.
`python docs/gallery/cost_of_a_hypergradient.py [--small]` draws cost_of_a_hypergradient.png.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jals
from jals.derivatives.solution import passes as passes_of


def main(small: bool = False, picture: str = "cost_of_a_hypergradient.png") -> dict:
    jax.config.update("jax_enable_x64", True)  # for stationary points that are exact enough
    drawn = jals.datasets.synthetic(60, 30, 2, 0.4, noise=0.5, dtype=np.float64)[0]
    train, test = jals.split.random((drawn if small else jals.datasets.movielens_latest_small()).ratings, 0.1)
    problem = jals.Problem.build(train, layout="segmented").arrange()
    solver = jals.ALS(rank=2 if small else 8)

    def objective(logs):  # log lambda of users and items
        return jals.als_wr(reg_user=jnp.exp(logs[0]), reg_item=jnp.exp(logs[1]), bias=True, center=True)

    def held_out(logs, problem, sweeps, method):
        if method == "run":  # a plain scan, of which reverse mode keeps all
            state, _ = jals.run(solver, start, problem, objective(logs), sweeps)
            predict = functools.partial(jals.predict, state.factors)
        else:
            predict = jals.solution_map(solver, problem, objective(logs), sweeps=sweeps, method=method)
        return jnp.mean((predict(test.user, test.item) - test.value) ** 2)

    def differences(error, h=1e-3):
        return lambda x, *at: jax.lax.map(lambda e: error(x + e, *at) - error(x - e, *at), h * jnp.eye(2)) / (2 * h)

    told, logs, passes = {}, jnp.log(jnp.array([0.12, 0.12])), functools.partial(passes_of, solver)
    start = solver.init(jax.random.key(0), problem, objective(logs))
    fit = jals.fit(solver, problem, objective(logs), loss_every=0)
    jals.adjoint.hypergradient(test, fit.factors, problem, objective(logs))  # so that it is compiled
    for sweeps in (16,) if small else (5, 16, 50, 160):
        for name, how, method, count in (
            ("differences", differences, "unrolled", 4 * passes(sweeps)),
            ("forward", jax.jacfwd, "unrolled", passes(sweeps, "forward")),
            ("reverse", jax.grad, "unrolled", passes(sweeps, "reverse")),
            ("reverse, all kept", jax.grad, "run", 3 * passes(sweeps)),  # nothing is made again
            ("adjoint", jax.grad, "adjoint", passes(sweeps)),
        ):
            slope_of = jax.jit(how(functools.partial(held_out, sweeps=sweeps, method=method)))
            program = slope_of.lower(logs, problem).compile()
            memory = program.memory_analysis().temp_size_in_bytes / 1e6
            began = time.perf_counter()
            if method == "adjoint":  # the same in steps, which say what they cost
                fit = jals.fit(solver, problem, objective(logs), sweeps, loss_every=0)
                began = time.perf_counter() - fit.history.seconds[-1]
                _, by, info = jals.adjoint.hypergradient(test, fit.factors, problem, objective(logs))
                slope = np.exp(logs) * np.array([by.objective.reg_user, by.objective.reg_item])
                count += info.polish_passes + info.passes
            else:
                slope = np.asarray(program(logs, problem))
            told.setdefault(name, []).append((sweeps, count, time.perf_counter() - began, memory, *slope))
            print(f"{sweeps:4} sweeps {name:18} {count:5} passes {told[name][-1][2]:7.3f} s {memory:7.2f} MB  {slope}")
    told = {name: np.array(rows).T for name, rows in told.items()}
    draw(told, picture)
    return told


def draw(told: dict, picture: str) -> None:
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    for at, label in ((1, "passes over the entries"), (2, "seconds"), (3, "temporary memory, MB")):
        axes = figure.add_subplot(1, 3, at)
        for (name, rows), color in zip(told.items(), ("0.5", "#ccbb44", "#d1495b", "#aa3377", "#3b6ea8"), strict=True):
            axes.loglog(rows[0], rows[at], "o--" if "kept" in name else "o-", markersize=4, color=color, label=name)
        axes.set(xlabel="sweeps of the fit", ylabel=label)
        axes.set_xticks(rows[0], [f"{sweeps:.0f}" for sweeps in rows[0]])
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main("--small" in sys.argv)
