"""implicit's ALS on a GPU, for bench_gpu.py, from wheels unpacked into one folder.

    python -m speed.peer PEER serve FOLDER      requests, a JSON line each on stdin; answers on stdout
    python -m speed.peer PEER whole REQUEST     one whole job, from files to the RMSE

The folder PEER holds what these wheels hold: implicit (0.7.3: for CUDA 13), librmm-cu13 (26.4: later ones lack what it
asks for) and rapids-logger (under 0.3); and tqdm and threadpoolctl, where the environment has none. CUDA's own
libraries are those of jax's wheels.
"""

import ctypes
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from .worker import Answers, Fitted, dot_products, mapped, peak_memory, rmse, timed_part

CUDA = ("libcudart.so.13*", "libcublasLt.so.13*", "libcublas.so.13*", "libcurand.so.10*")
OWN = ("librapids_logger.so", "librmm.so")  # in the order in which one needs the other


def load(folder: Path) -> Any:
    """implicit's class of models on a GPU.

    implicit imports the package rmm, which has its library loaded and is not used otherwise: an empty module stands for
    it here, and what it needs is loaded first, found wherever it lies.
    """
    for pattern in CUDA:
        _open([path for place in sys.path for path in sorted(Path(place).glob(f"nvidia/**/{pattern}"))])
    for name in OWN:
        if not _open(sorted(folder.rglob(name))):
            raise ImportError(f"{name} is not under {folder}, or does not load")
    sys.modules.setdefault("rmm", types.ModuleType("rmm"))
    sys.path.insert(0, str(folder))
    import implicit.gpu  # pyright: ignore[reportMissingImports]

    if not implicit.gpu.HAS_CUDA:
        raise ImportError("implicit finds no GPU")
    from implicit.gpu.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]

    return AlternatingLeastSquares


def _open(paths: list[Path]) -> bool:
    """Whether one of the libraries loads, the first that does, for all that is loaded later."""
    for path in paths:
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr)
        else:
            return True
    return False


def fit(make: Any, table: Any, rank: int, sweeps: int, cg_steps: int = 3) -> Fitted:
    model = make(factors=rank, iterations=sweeps, regularization=0.05, random_state=0, dtype=np.float32)
    model.cg_steps = cg_steps
    model.fit(table, show_progress=False)
    return dot_products(model.user_factors.to_numpy(), model.item_factors.to_numpy())


def whole(make: Any, train: str, test: str, rank: int, sweeps: int) -> dict:
    """Read, fit, evaluate; seconds by part. Its predictions head for 1: the RMSE is a cost here, not a quality."""
    seconds: dict[str, float] = {}
    table = timed_part(seconds, "read", lambda: sp.load_npz(train))
    fitted = timed_part(seconds, "fit", lambda: fit(make, table, rank, sweeps))
    error = timed_part(seconds, "evaluate", lambda: rmse(fitted, test))
    return {"parts": seconds, "rmse": error, "memory": peak_memory()}


def main(peer: str, mode: str, what: str) -> None:
    answers = Answers()
    if mode == "whole":
        answers.answer(lambda: whole(load(Path(peer)), **json.loads(what)))
        return

    def start(served: dict[str, Callable[..., dict]]) -> dict:
        make, table = load(Path(peer)), mapped(Path(what))

        def timed(rank: int, sweeps: int, cg_steps: int = 3) -> dict:
            started = time.perf_counter()
            fit(make, table, rank, sweeps, cg_steps)
            return {"seconds": time.perf_counter() - started}

        served["fit"] = timed
        import implicit  # pyright: ignore[reportMissingImports]

        return {"implicit": implicit.__version__}

    answers.serve(start)


if __name__ == "__main__":
    main(*sys.argv[1:])
