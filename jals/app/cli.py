"""The command `jals`. Errors that jals raises on purpose become one message and an exit code, never a traceback:

0 done · 1 a fit broke down or a certificate failed · 2 bad input · 130 interrupted
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import jals

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Entry point of the command."""
    missing = [name for name in ("pydantic", "rich", "typer") if find_spec(name) is None]
    if missing:
        print(f'jals: the command line needs {", ".join(missing)}: pip install "jals[cli]"', file=sys.stderr)
        raise SystemExit(2)
    build()()


def build() -> "typer.Typer":
    """The command line as a typer application."""
    import typer

    app = typer.Typer(name="jals", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"jals {jals.__version__}")
            raise typer.Exit

    version_option = typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")

    @app.callback(help="Differentiable, certified ALS matrix factorization in JAX.")
    def top(version: Annotated[bool, version_option] = False) -> None:
        pass

    @app.command(help="Fit every solver of a config, show the results, and save them with the factors.")
    def run(
        config: Annotated[Path, typer.Argument(help="TOML file of the experiment.")],
        out: Annotated[Path | None, typer.Option(help="Output folder, in place of the config's.")] = None,
    ) -> None:
        from . import runner

        raise typer.Exit(_exit_code(lambda console: runner.run(config, out, console)))

    @app.command(help="Check a saved run again from its files; exit code 1 when a certificate fails.")
    def certify(folder: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run.")]) -> None:
        from . import runner

        raise typer.Exit(_exit_code(lambda console: runner.certify(folder, console)))

    return app


def _exit_code(work: Callable) -> int:
    from rich.console import Console

    try:
        return work(Console(highlight=False))
    except (jals.JalsError, ImportError) as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted before a fit had finished a sweep; nothing was saved.", 130
    print(f"jals: {message}", file=sys.stderr)
    return code
