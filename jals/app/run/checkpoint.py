"""The state of a fit that is under way, on disk by orbax, so that a stopped run goes on where it was."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

import jals
from jals.fitting.single import History

from ...errors import StorageError
from ...files.runs.folder import UNFINISHED


def save(folder: Path, key: str, result: jals.Result) -> dict[str, str]:
    """Keeps what `fit` needs to go on from this result, beside the checkpoint before it.

    Returns: the SHA-256 of each of its files, by path seen from the folder; orbax looks for no damage itself.
    """
    note = {
        "key": key,
        "sweep": result.sweep,
        "reason": result.reason,
        "converged": result.converged,
        "metric": result.metric,
        "history": dataclasses.asdict(result.history),  # orbax's JSON keeps nan
    }
    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave({"state": result.state, "factors": result.factors}), note=ocp.args.JsonSave(note)
    )
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    try:
        with ocp.CheckpointManager(_place(folder), options=options) as manager:
            if manager.latest_step() != result.done:  # stopped again before the next sweep: it is there already
                manager.save(result.done, args=items, force=True)
        return _digests(folder, result.done)
    except (OSError, ValueError) as error:
        raise StorageError(f"no checkpoint can be written to {folder / UNFINISHED}: {error}") from error


def keep_only(folder: Path, files: dict[str, str]) -> None:
    """Removes every checkpoint but the one of these files."""
    kept = {Path(name).parts[1] for name in files}
    for path in _place(folder).iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def restore(folder: Path, key: str, files: dict[str, str], solver: Any, problem: Any, objective: Any) -> jals.Result:
    """The result that a checkpoint holds for this fit; `files` are what `save` returned.

    Raises:
        StorageError: when it is damaged, or of another fit.
    """
    state = jax.eval_shape(lambda: solver.init(jax.random.key(0), problem, objective))
    wanted = ocp.args.StandardRestore({"state": state, "factors": state.factors})
    step = next((Path(name).parts[1] for name in files), "none")
    if _digests(folder, step) != files or not files:
        raise StorageError(f"The checkpoint {folder / UNFINISHED} is damaged.")
    try:
        with ocp.CheckpointManager(_place(folder)) as manager:
            note = manager.restore(int(step), args=ocp.args.Composite(note=ocp.args.JsonRestore())).note
            if note["key"] != key:
                raise ValueError("it is of another fit")
            arrays = manager.restore(int(step), args=ocp.args.Composite(arrays=wanted)).arrays
        history, end = History(**note["history"]), (note["converged"], note["reason"], note["sweep"])
        return jals.Result(arrays["factors"], arrays["state"], history, 0.0, *end, metric=note["metric"])
    except Exception as error:  # what orbax and tensorstore raise is not documented
        raise StorageError(
            f"The checkpoint {folder / UNFINISHED} cannot be read ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _digests(folder: Path, step: Any) -> dict[str, str]:
    files = (path for path in (_place(folder) / str(step)).rglob("*") if path.is_file())
    return {
        path.relative_to(folder.absolute()).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def _place(folder: Path) -> Path:
    return (folder / UNFINISHED).absolute()  # orbax takes no relative path
