"""The state of a fit that is under way, on disk by orbax, so that a stopped run goes on where it was.

Of a fit on several devices each process writes the rows of its own, in the background. Orbax looks for no damage: what
it has written is known by its SHA-256, in the note of the fit, and a checkpoint that the note does not know is none.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

import jals
from jals.fitting.single import History
from jals.model.exchange import AXIS

from ...errors import StorageError
from ...files.runs.folder import UNFINISHED
from ...metrics import as_error
from ...partitioned.manifest import sha256
from . import ranks

_WAIT = 600  # seconds for the slowest process to have written


class Checkpoints:
    """Those of one fit, in the folder of its run. Every process of the run calls the same methods.

    Attributes:
        files: the SHA-256 of each file of the checkpoints that are whole and kept, by path seen from the folder.
        pending: whether one is being written.
    """

    def __init__(self, folder: Path, key: str, keep: int = 1, files: dict[str, str] | None = None):
        """`keep`: how many of the latest are kept, beside the best; `files`: of those that are there already."""
        self.folder, self.key, self.keep = folder, key, keep
        self.files = dict(files or {})
        self.pending: jals.Result | None = None
        self._scores: dict[int, float] = {}
        self._manager: Any = None

    def begin(self, result: jals.Result) -> None:
        """Takes a copy of what `fit` needs to go on from this result, and writes it; in the background, where the
        result is spread over devices."""
        note = {
            "key": self.key,
            "sweep": result.sweep,
            "reason": result.reason,
            "converged": result.converged,
            "metric": result.metric,
            "history": dataclasses.asdict(result.history),  # orbax's JSON keeps nan
        }
        arrays: dict[str, Any] = {"state": result.state}
        if result.sweep != result.done:  # of an earlier sweep, which patience keeps
            arrays["factors"] = result.factors
        items = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), note=ocp.args.JsonSave(note))

        def save() -> None:
            try:
                manager = self._opened(result)
                if manager.latest_step() != result.done:  # stopped again before the next sweep: it is there already
                    manager.save(result.done, args=items, force=True)
            except Exception as error:  # what orbax and tensorstore raise is not documented
                raise self._unwritten(error) from error

        ranks.of_each(save)
        self.pending = result

    def is_written(self) -> bool:
        """Whether what was begun is on the disk, of all processes."""
        (writing,) = ranks.any_of(self._manager is not None and self._manager.is_saving_in_progress())
        return not writing

    def end(self) -> jals.Result:
        """Waits until what was begun is on the disk, and adds it to `files`, without those that are kept no longer.
        `prune` removes these once the note says so.

        Returns: the result that was written.

        Raises:
            StorageError: where it cannot be written; what was there before is as it was.
        """
        result, self.pending = self.pending, None
        assert result is not None

        def wait() -> None:
            try:
                self._manager.wait_until_finished()
                self._manager.check_for_errors()
            except Exception as error:
                raise self._unwritten(error) from error

        try:
            ranks.of_each(wait)
        except StorageError:
            self._manager = None  # which would raise it again
            raise
        self._scores[result.done] = _score(result)
        found = _digests(self.folder, result.done)
        latest = sorted({*map(step_of, self.files), result.done})[-self.keep :]
        kept = {*latest, min(self._scores, key=lambda step: (self._scores[step], -step))}
        self.files = {name: digest for name, digest in (self.files | found).items() if step_of(name) in kept}
        return result

    def prune(self) -> None:
        """Removes every checkpoint but those of `files`."""
        keep_only(self.folder, self.files)

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _opened(self, result: jals.Result) -> Any:
        if self._manager is None:
            spread = result.factors.places is not None
            options = ocp.CheckpointManagerOptions(
                enable_async_checkpointing=spread, async_options=ocp.AsyncOptions(timeout_secs=_WAIT)
            )
            self._manager = ocp.CheckpointManager(_place(self.folder), options=options)
        return self._manager

    def _unwritten(self, error: Exception) -> StorageError:
        return StorageError(f"no checkpoint can be written to {self.folder / UNFINISHED}: {str(error)[:500]}")


def keep_only(folder: Path, files: dict[str, str]) -> None:
    """Removes every checkpoint but those of these files."""
    if ranks.is_first():
        kept = {str(step_of(name)) for name in files}
        for path in _place(folder).glob("*"):
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def restore(
    folder: Path, key: str, files: dict[str, str], solver: Any, problem: Any, objective: Any
) -> tuple[jals.Result, list[int]]:
    """(the result that the latest whole checkpoint holds for this fit, the sweeps of those that are damaged); `files`
    are what `Checkpoints` had. On other devices than it was written from it lies as these need it.

    Raises:
        StorageError: when all are damaged, or of another fit.
    """
    state = _laid(jax.eval_shape(lambda: solver.init(jax.random.key(0), problem, objective)), problem)
    damaged: list[int] = []
    for step in sorted({*map(step_of, files)}, reverse=True):
        own = {name: digest for name, digest in files.items() if step_of(name) == step}
        if _digests(folder, step) == own:
            found: list[jals.Result] = []
            ranks.of_each(lambda step=step, found=found: found.append(_restored(folder, key, step, state)))
            return found[0], damaged
        damaged.append(step)
    raise StorageError(f"The checkpoint {folder / UNFINISHED} is damaged.")


def _restored(folder: Path, key: str, step: int, state: Any) -> jals.Result:
    try:
        with ocp.CheckpointManager(_place(folder)) as manager:
            note = manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note
            if note["key"] != key:
                raise ValueError("it is of another fit")
            history, sweep = History(**note["history"]), note["sweep"]
            wanted = {"state": state} | ({} if sweep == history.last().sweep else {"factors": state.factors})
            items = ocp.args.Composite(arrays=ocp.args.StandardRestore(wanted))
            arrays = manager.restore(step, args=items).arrays
        factors = arrays.get("factors", arrays["state"].factors)
        end = note["converged"], note["reason"], sweep
        return jals.Result(factors, arrays["state"], history, 0.0, *end, metric=note["metric"])
    except Exception as error:  # what orbax and tensorstore raise is not documented
        raise StorageError(
            f"The checkpoint {folder / UNFINISHED} cannot be read ({type(error).__name__}: {str(error)[:200]})."
        ) from error


def _laid(state: Any, problem: Any) -> Any:
    """The shapes of a state, with where a sweep leaves its arrays: on the devices that the problem is spread over, the
    tables in as many parts."""
    places, mesh = getattr(problem, "places", None), getattr(problem, "mesh", None)
    if places is None or mesh is None:
        return state
    tables = {places.count(side) for side in ("user", "item")}

    def laid(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spread = bool(leaf.shape) and leaf.shape[0] in tables
        spec = jax.sharding.PartitionSpec(*[AXIS] * spread)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.sharding.NamedSharding(mesh, spec))

    return jax.tree.map(laid, state)


def _score(result: jals.Result) -> float:
    """The lower, the better: the validation metric, or the loss, of the last record."""
    last = result.history.last()
    score = as_error(result.metric, last.validation) if last.validation == last.validation else last.loss
    return score if score == score else -result.done


def step_of(name: str) -> int:
    """The checkpoint that a file belongs to, by the sweeps done."""
    return int(Path(name).parts[1])


def _digests(folder: Path, step: Any) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint; each process reads its share of them."""

    def named() -> list[str]:
        files = (path for path in (_place(folder) / str(step)).rglob("*") if path.is_file())
        return sorted(path.relative_to(folder.absolute()).as_posix() for path in files)

    names = ranks.from_first(named)

    def digested() -> dict[str, str]:
        own = names[jax.process_index() :: jax.process_count()]
        try:
            return {name: sha256(folder / name) for name in own}
        except OSError as error:
            raise StorageError(f"{folder / UNFINISHED} cannot be read: {error}.") from error

    found = [pair for each in ranks.of_each(digested) for pair in each.items()]
    return dict(sorted(found))


def _place(folder: Path) -> Path:
    return (folder / UNFINISHED).absolute()  # orbax takes no relative path
