"""The command `jals`. Errors that jals raises on purpose become one message and an exit code, never a traceback:

0 done · 1 a fit broke down or a certificate failed · 2 bad input · 3 a process of several was lost, all have ended ·
130 interrupted (129 by SIGHUP, 143 by SIGTERM)
"""

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jals

if TYPE_CHECKING:
    import typer
    from rich.console import Console


def main() -> None:
    """Entry point of the command."""
    needed = ("jinja2", "matplotlib", "narwhals", "orbax", "polars", "pydantic", "rich", "tomli_w", "typer")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        print(f'jals: the command line needs {", ".join(missing)}: pip install "jals[cli]"', file=sys.stderr)
        raise SystemExit(2)
    from .show import console

    console.prepare_streams()
    _keep_compiled()
    try:
        build()()
    except SystemExit as end:
        if end.code in (129, 130, 143):  # a stop while jaxlib 0.10.2 compiles makes the interpreter crash at its end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
        raise


def _keep_compiled() -> None:
    """Keeps compiled programs on disk for the next command, in jax's own cache, unless the user has placed or switched
    off that (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE)."""
    import jax

    from ..caching import enable_cache
    from ..errors import StorageError

    config: Any = jax.config
    if config.jax_enable_compilation_cache and config.jax_compilation_cache_dir is None:
        with contextlib.suppress(StorageError):  # a home that cannot be written to: each command compiles anew
            enable_cache()


def build() -> "typer.Typer":
    """The command line as a typer application."""
    import typer
    from typer.core import TyperGroup

    from .show.console import printable

    class PrintableGroup(TyperGroup):
        """Says what is wrong with a command line without the control characters that may stand in it."""

        def make_context(self, *arguments: Any, **options: Any) -> Any:
            with _told():
                return super().make_context(*arguments, **options)

        def invoke(self, ctx: Any) -> Any:
            with _told():
                return super().invoke(ctx)

    @contextlib.contextmanager
    def _told() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str):
                error.message = printable(message, lines=True)  # pyright: ignore[reportAttributeAccessIssue]
            raise

    modes: Any = {"no_args_is_help": True, "rich_markup_mode": "rich"}
    app = typer.Typer(name="jals", cls=PrintableGroup, pretty_exceptions_enable=False, **modes)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"jals {jals.__version__}")
            raise typer.Exit

    version_option = typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")

    @app.callback(help="Differentiable, certified ALS matrix factorization in JAX.")
    def top(version: Annotated[bool, version_option] = False) -> None:
        pass

    def command(example: str, group: typer.Typer = app) -> Callable:
        """A command whose docstring is its help, with an example of its use below."""
        return group.command(epilog=f"Example: [bold]{example}[/]")

    config_file = typer.Argument(help="TOML file of the experiment.")
    change_help = "Change the config, as in solver.0.rank=64. Repeatable."
    change_option = typer.Option("--set", metavar="KEY=VALUE", help=change_help)
    folder_of_run = typer.Argument(metavar="RUN", help="Output folder of a run.")

    @command("jals run configs/movielens.toml --out runs/first")
    def run(
        config: Annotated[Path, config_file],
        out: Annotated[Path | None, typer.Option(help="Output folder, in place of the config's.")] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")] = False,
        extend: Annotated[bool, typer.Option("--extend", help="Keep the fits that the folder's run shares.")] = False,
        processes: Annotated[
            int | None, typer.Option(help="Of this host, that make the fit together: processes.count.", min=1)
        ] = None,
        dry: Annotated[bool, typer.Option("--dry-run", help="Show the fits and their cost; make none.")] = False,
        changes: Annotated[list[str] | None, change_option] = None,
    ) -> None:
        """Make every fit of a config, show the results, and save them with the factors, a page to look at and a report.

        Ctrl-C keeps what is done (exit code 130), and so do SIGTERM (143) and SIGHUP (129); the same command then goes
        on from there.
        """
        from .run import launch, runner

        def work(console: "Console") -> int:
            if dry:
                return runner.dry_run(config, console, changes or ())
            return launch.run(config, out, overwrite, console, changes or (), extend, processes)

        raise typer.Exit(_exit_code(work))

    @command("jals report runs/first runs/second --out runs/both")
    def report(
        runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Output folders of runs.")],
        out: Annotated[Path | None, typer.Option(help="Where to; for one run, its folder report/.")] = None,
        reference: Annotated[
            bool, typer.Option("--reference", help="First solve each problem to a minimum, to measure losses against.")
        ] = False,
    ) -> None:
        """Compare the fits of runs: index.html to look at, report.md to paste. Both begin with the verdict."""
        from ..files.runs import folder
        from .show.report import write

        def work(console: "Console") -> int:
            if out is None and len(runs) > 1:
                raise jals.ConfigError("several runs: say with --out where their report is to go.")
            if reference:
                from .run.reference import solve_in

                for place in runs:
                    solve_in(place, console)
            page = write(runs, out or runs[0] / folder.REPORT)
            console.print(f"wrote {page} and, beside it, report.md", soft_wrap=True)
            return 0

        raise typer.Exit(_exit_code(work))

    configs = typer.Typer(help="Look at configs; nothing is run.", **modes)
    app.add_typer(configs, name="config")

    @command("jals config check configs/movielens.toml --set solver.0.rank=64", configs)
    def check(config: Annotated[Path, config_file], changes: Annotated[list[str] | None, change_option] = None) -> None:
        """Check a config without its data, and show it with every default written out."""
        from . import config as room

        def shown(console: "Console") -> int:
            text = room.dump(room.load(config, changes or ())).decode()
            text = re.sub("[\x80-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)  # TOML has no \x9b
            for line in text.removesuffix("\n").split("\n"):
                console.print(line, soft_wrap=True)
            return 0

        raise typer.Exit(_exit_code(shown))

    @command("jals config schema > jals.schema.json", configs)
    def schema() -> None:
        """The JSON schema of a config, for editors that check and complete TOML."""
        from .config.schema import Config

        typer.echo(json.dumps(Config.model_json_schema(), indent=1))

    @command("jals certify runs/movielens")
    def certify(folder: Annotated[Path, folder_of_run]) -> None:
        """Check a saved run again from its files; exit code 1 when a certificate fails."""
        from .run import runner

        raise typer.Exit(_exit_code(lambda console: runner.certify(folder, console)))

    solver_option = typer.Option(help="Of a run of several solvers: by one of these.")
    fit_option = typer.Option(metavar="KEY", help="By the fit whose key begins so.")

    @command("jals recommend runs/movielens --user 15 -k 5")
    def recommend(
        folder: Annotated[Path, folder_of_run],
        user: Annotated[str | None, typer.Option(help="The user's id, as in the data.")] = None,
        items: Annotated[str | None, typer.Option(help="A new user: ids of items, commas between them.")] = None,
        k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 10,
        solver: Annotated[str | None, solver_option] = None,
        fit: Annotated[str | None, fit_option] = None,
        min_entries: Annotated[
            int | None,
            typer.Option(help="Leave out items with fewer training entries; unasked, of ratings 30 or fewer.", min=0),
        ] = None,
        explain: Annotated[bool, typer.Option("--explain", help="Name the entries that add most to a score.")] = False,
    ) -> None:
        """The items with the highest scores that a user has not seen, by the factors of a run.

        Of several fits the best by the validation part serves; where there is none, choose with --solver or --fit.
        """
        from .commands import recommend as room

        def shown(console: "Console") -> int:
            return room.recommend(folder, user, k, console, solver, min_entries, fit, items, explain)

        raise typer.Exit(_exit_code(shown))

    @command("jals similar runs/movielens --item 1 -k 5")
    def similar(
        folder: Annotated[Path, folder_of_run],
        item: Annotated[str, typer.Option(help="The item's id, as in the data.")],
        k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 10,
        solver: Annotated[str | None, solver_option] = None,
        fit: Annotated[str | None, fit_option] = None,
    ) -> None:
        """The items whose factors are most like an item's, by their cosine."""
        from .commands import recommend as room

        raise typer.Exit(_exit_code(lambda console: room.similar(folder, item, k, console, solver, fit)))

    @command("jals explore runs/movielens")
    def explore(
        folder: Annotated[Path, folder_of_run],
        titles: Annotated[
            Path | None, typer.Option(metavar="FILE", help="A csv of ids and titles, for items that have none.")
        ] = None,
        port: Annotated[
            int | None, typer.Option(help="Of 127.0.0.1; unasked, one that is free.", min=1, max=65535)
        ] = None,
        browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
        solver: Annotated[str | None, solver_option] = None,
        fit: Annotated[str | None, fit_option] = None,
    ) -> None:
        """A page on this computer: what is like an item, what to recommend to whom and why, and a map of the items.

        Ctrl-C ends it. Nothing is fitted, and nothing leaves this computer.
        """
        from .commands import explore as room

        def shown(console: "Console") -> int:
            return room.explore(folder, console, solver, fit, titles, port, browser)

        raise typer.Exit(_exit_code(shown))

    @command("jals evaluate runs/movielens -k 10 -k 20 --metric ndcg")
    def evaluate(
        folder: Annotated[Path, folder_of_run],
        k: Annotated[list[int], typer.Option("-k", help="How many items count. Repeatable.", min=1)] = [10],  # noqa: B006
        metric: Annotated[list[str], typer.Option(help="As of jals.metrics.ranking. Repeatable.")] = ["recall", "ndcg"],  # noqa: B006
        part: Annotated[Literal["test", "validation"], typer.Option(help="Of the split.")] = "test",
        solver: Annotated[str | None, solver_option] = None,
        fit: Annotated[str | None, fit_option] = None,
    ) -> None:
        """How well a run ranks held-out items among all that a user has not seen, beside the most popular ones."""
        from .commands import evaluate as room

        def shown(console: "Console") -> int:
            return room.evaluate(folder, console, tuple(k), tuple(metric), part, solver, fit)

        raise typer.Exit(_exit_code(shown))

    @command("jals export runs/movielens factors.parquet")
    def export(
        folder: Annotated[Path, folder_of_run],
        out: Annotated[Path, typer.Argument(metavar="FILE", help=".npz, .safetensors or .parquet.")],
        solver: Annotated[str | None, solver_option] = None,
        fit: Annotated[str | None, fit_option] = None,
    ) -> None:
        """The factors of a run in a file of their own, with ids, objective and what users have seen."""
        from .commands import evaluate as room

        raise typer.Exit(_exit_code(lambda console: room.export(folder, out, console, solver, fit)))

    @command("jals derive ratings.csv --user 15 --picture table.png")
    def derive(
        table: Annotated[Path | None, typer.Argument(metavar="FILE", help="Ratings; else a small table.")] = None,
        user: Annotated[str | None, typer.Option(help="Whose row to derive; without, one with few entries.")] = None,
        reg: Annotated[float, typer.Option(help="λ of the loss.")] = 0.1,
        rank: Annotated[int, typer.Option(help="Numbers in a row of factors.", min=1)] = 2,
        seed: Annotated[int, typer.Option(help="Of the initial factors.", min=0)] = 0,
        picture: Annotated[Path | None, typer.Option(help="Draw the table there, as .png or .svg.")] = None,
        short: Annotated[bool, typer.Option("--short", help="The answer in five lines, without the walk.")] = False,
    ) -> None:
        """Derive the ALS update: the answer in five lines, then the walk on one row, in numbers checked by autodiff."""

        def walk(console: "Console") -> int:
            import jax

            from .commands import derivation as room
            from .run.data import open_data

            jax.config.update("jax_enable_x64", True)  # zeros that look like zeros
            data = room.built_in() if table is None else open_data(str(table))
            return room.derive(
                console, data.ratings, data.vocab, user, reg, rank, seed, picture, data.titles, short
            )

        raise typer.Exit(_exit_code(walk))

    @command("jals doctor")
    def doctor() -> None:
        """Versions, devices, threads and extras here, what is wrong with them, and how to mend it."""
        from .commands import doctor as room

        raise typer.Exit(_exit_code(room.examine))

    @command("jals partition ratings/ table/ --shards 64 --memory 2GB")
    def partition(
        source: Annotated[Path, typer.Argument(help="A file of ratings, or a folder of such files.")],
        out: Annotated[Path, typer.Argument(help="The folder to make.")],
        shards: Annotated[int, typer.Option(help="Into how many each side is cut.", min=1)] = 64,
        memory: Annotated[str, typer.Option(help="How much DuckDB may use.")] = "1GB",
        threads: Annotated[int | None, typer.Option(help="Unasked, one a core.", min=1)] = None,
        user: Annotated[str | None, typer.Option(help="The column of users: a name, or a position from 0.")] = None,
        item: Annotated[str | None, typer.Option(help="That of items.")] = None,
        value: Annotated[str | None, typer.Option(help="That of values.")] = None,
        weight: Annotated[str | None, typer.Option(help="That of weights.")] = None,
        delimiter: Annotated[str | None, typer.Option(help="Of text: one character, or ::.")] = None,
        header: Annotated[
            bool | None, typer.Option("--header/--no-header", help="Whether text names its columns.")
        ] = None,
        ids: Annotated[Literal["auto", "int", "str"], typer.Option(help="What ids are.")] = "auto",
        duplicates: Annotated[
            Literal["error", "last", "mean", "sum"], typer.Option(help="What becomes of pairs that occur again.")
        ] = "error",
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the table that OUT holds.")] = False,
    ) -> None:
        """Cut a table that is larger than memory into shards of users and items, for jals.Problem.open.

        A command that was stopped goes on when it is given again.
        """
        from .commands import partitioning as room

        columns = {"user": user, "item": item, "value": value, "weight": weight}
        reading = {"delimiter": delimiter, "header": header, "ids": ids, "duplicates": duplicates}
        limits: dict[str, Any] = {"shards": shards, "memory": memory, "threads": threads, "overwrite": overwrite}

        def work(console: "Console") -> int:
            return room.write(source, out, console, **columns, **reading, **limits)

        raise typer.Exit(_exit_code(work))

    @command("jals plan v5e:4x4 --users 20000000 --items 1000000 --entries 2000000000 --rank 128")
    def plan(
        topology: Annotated[str, typer.Argument(help="v5e:16x16, v5p:4x4x4, gpu:h100x8, cpu:8.")],
        rank: Annotated[int, typer.Option(help="Numbers in a row of factors.", min=1)],
        users: Annotated[int | None, typer.Option(help="How many there are.", min=1)] = None,
        items: Annotated[int | None, typer.Option(help="Likewise.", min=1)] = None,
        entries: Annotated[int | None, typer.Option(help="Likewise.", min=1)] = None,
        table: Annotated[
            Path | None, typer.Option(metavar="FOLDER", help="In place of the three: a partitioned table.")
        ] = None,
        precision: Annotated[
            Literal["float32", "float64", "bfloat16"], typer.Option(help="In which factors are kept and exchanged.")
        ] = "float32",
        weighted: Annotated[
            bool | None, typer.Option("--weighted/--unweighted", help="Whether entries have weights.")
        ] = None,
        value: Annotated[
            Literal["float", "uint8", "uint16"], typer.Option(help="How values lie: as numbers, or codes of them.")
        ] = "float",
        exchange: Annotated[
            str, typer.Option(help="How rows reach devices: auto, all_gather, routed, ring; routed:8 in 8 exchanges.")
        ] = "auto",
        program: Annotated[Literal["als", "gradient", "top_k"], typer.Option(help="What to compile.")] = "als",
        search: Annotated[
            bool, typer.Option("--search/--no-search", help="Look for the smallest slice that fits.")
        ] = True,
        picture: Annotated[
            Path | None, typer.Option(help="Draw bytes by slice, and floors, as .png or .svg.")
        ] = None,
    ) -> None:
        """Whether a slice of accelerators holds a fit, and what its sweeps are bound by: from the compiled program.

        Neither the data nor an accelerator is needed. Exit code 1 where it does not fit.
        """
        from .commands import planning as room

        def shown(console: "Console") -> int:
            options: dict[str, Any] = {"precision": precision, "weighted": weighted, "search": search}
            options |= {"value": value, "exchange": exchange}
            sizes = (users, items, entries)
            return room.show(console, table, sizes, picture, rank, topology, program=program, **options)

        raise typer.Exit(_exit_code(shown))

    @command("jals datasets movielens-latest-small")
    def datasets(name: Annotated[str | None, typer.Argument(help="Describe this one; else list all.")] = None) -> None:
        """The data sets that a config can name: their sizes, and where they are looked for."""
        from .commands import catalogue

        raise typer.Exit(_exit_code(lambda console: catalogue.show(console, name)))

    return app


def _exit_code(work: Callable) -> int:
    from .show.console import Console, printable

    try:
        return work(Console())
    except (jals.JalsError, ImportError) as error:
        message, code = str(error), 2
    except KeyboardInterrupt as stopped:
        signum = getattr(stopped, "signum", signal.SIGINT)
        message, code = f"{str(stopped) or 'interrupted'}.", 128 + signum
    print(f"jals: {printable(message, lines=True)}", file=sys.stderr)
    return code
