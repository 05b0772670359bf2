"""The state of a fit that is under way, on disk by orbax, so that a stopped run goes on where it was."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

import jals
from jals.fitting import History

from ..errors import StorageError
from .folder import UNFINISHED


def save(folder: Path, key: str, result: jals.Result) -> None:
    """Keeps what `fit` needs to go on from this result. The checkpoint before it goes once this one is whole."""
    note = {
        "key": key,
        "sweep": result.sweep,
        "reason": result.reason,
        "converged": result.converged,
        "history": dataclasses.asdict(result.history),  # orbax's JSON keeps nan
    }
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave({"state": result.state, "factors": result.factors}),
        note=ocp.args.JsonSave(note),
    )
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    try:
        with ocp.CheckpointManager(_place(folder), options=options) as manager:
            if manager.latest_step() != result.done:  # stopped again before the next sweep: it is there already
                manager.save(result.done, args=items, force=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"no checkpoint can be written to {folder / UNFINISHED}: {error}") from error


def restore(folder: Path, key: str, solver: Any, problem: Any, objective: Any) -> jals.Result | None:
    """The result that the checkpoint holds for this fit, or None where there is none.

    Raises:
        StorageError: when the checkpoint is damaged, or of another solver.
    """
    if not _place(folder).exists():
        return None
    state = jax.eval_shape(lambda: solver.init(jax.random.key(0), problem, objective))
    wanted = ocp.args.StandardRestore({"state": state, "factors": state.factors})
    try:
        with ocp.CheckpointManager(_place(folder)) as manager:
            step = manager.latest_step()
            if step is None:
                return None
            note = manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note
            if note.get("key") != key:
                return None
            arrays = manager.restore(step, args=ocp.args.Composite(arrays=wanted)).arrays
        history = History(**note["history"])
        end = note["converged"], note["reason"], note["sweep"]
        return jals.Result(arrays["factors"], arrays["state"], history, 0.0, *end)
    except Exception as error:  # what orbax and tensorstore raise for damage is not documented
        raise StorageError(
            f"The checkpoint {folder / UNFINISHED} cannot be read ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _place(folder: Path) -> Path:
    return (folder / UNFINISHED).absolute()  # orbax takes no relative path
