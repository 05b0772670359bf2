"""Compiled programs kept on the disk, so that the next process need not compile them."""

import hashlib
import os
import platform
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from .errors import ArgumentError, StorageError


def enable_cache(path: str | os.PathLike | None = None) -> Path:
    """Keeps what jax compiles from now on in a folder, and takes from there what an earlier process compiled. Call it
    once, before the first fit; it is jax's own persistent cache, for all programs of this process, not of jals alone.

    It changes jax's settings (jals does so nowhere else): `jax_enable_compilation_cache`, `jax_compilation_cache_dir`,
    `jax_persistent_cache_min_compile_time_secs` and `jax_persistent_cache_min_entry_size_bytes`, so that small programs
    are kept, too. Programs are found again by what they compute, the versions of jax and XLA and their options; nothing
    of data or results is in them. Nothing is ever removed: delete the folder when it has grown too large.

    Args:
        path: the folder, made where it is missing; None for the one that jax has been told
            (`JAX_COMPILATION_CACHE_DIR`), else `$XDG_CACHE_HOME/jals`, by default `~/.cache/jals`, and in it one folder
            for each kind of processor: a program for one may not run on another that shares the disk.

    Returns: the folder.

    Raises:
        ArgumentError: for what is no path.
        StorageError: where it cannot be written to.
    """
    told = jax.config.jax_compilation_cache_dir  # pyright: ignore
    try:
        folder = Path(_default() if path is None and not told else path or told)
    except TypeError:
        kind = type(path).__name__
        raise ArgumentError(f"path is of type {kind}: give a folder, or None for the usual one.") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "it may not be written to")
    except OSError as error:
        raise StorageError(f"{folder} cannot keep compiled programs: {error.strerror or error}.") from error
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # jax asks for the folder once, at the first program, which may have been compiled
    return folder


def _default() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "jals" / _processor()


def _processor() -> str:
    """x86_64-3f2a91c0: the processor's kind, and of its instruction sets a digest."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            sets = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        sets = platform.processor()
    return f"{platform.machine() or 'any'}-{hashlib.sha256(sets.encode()).hexdigest()[:8]}"
