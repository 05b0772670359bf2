"""What the modules of jals use of each other."""

import ast
from pathlib import Path

import jals

PACKAGE = Path(jals.__file__).parent
OPEN = {"_replace", "_asdict", "_fields", "_make", "_exit"}  # of named tuples and os: public for all their looks


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OPEN


def own_names(tree: ast.Module) -> set[str]:
    """What a module gives names to itself, attributes of its own objects included."""
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, named)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def strange(tree: ast.Module):
    """(line, name) wherever a module uses a private name of another."""
    own = own_names(tree)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_another = isinstance(node.value, ast.Name) and node.value.id in imported
            if of_another or node.attr not in own:
                yield node.lineno, ast.unparse(node)


# The rooms from the lowest up: each uses those before it, and what lies beside it.
ROOMS = (
    *("errors", "html", "clock", "caching", "forks", "devices", "reals", "data", "partitioned"),
    *("model", "presets", "metrics", "plot", "baselines"),
    *("rows", "files", "solvers", "recommend", "planning"),
    *("fitting", "diagnostics", "derivatives", "tuning", "datasets", "experiment"),
    *("app.config", "app.study", "app.show", "app.run", "app.commands", "app"),
)


def room_of(module: list[str]) -> str:
    """Where a module or package of jals lies: ["app", "run", "lock"] in app.run, ["app", "cli"] in app."""
    inner = ".".join(module[:2])
    return inner if inner in ROOMS else module[0]


def rooms_used(path: Path):
    """(line, room) of each import of another module of jals, wherever in the module it stands."""
    package = ["jals", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) + 1 - node.level] if node.level else []
        full = base + (node.module or "").split(".") * bool(node.module)
        if full[:1] == ["jals"]:
            yield from ((node.lineno, room_of([*full[1:], alias.name])) for alias in node.names)


def test_imports_go_down():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        room = room_of([*place.with_suffix("").parts])
        if room in ("__init__", "__main__"):
            continue
        assert room in ROOMS, f"{place} lies in no room that is known: say in ROOMS what it may use"
        for line, used in rooms_used(path):
            if used in ROOMS and ROOMS.index(used) > ROOMS.index(room):
                found.append(f"{place}:{line} uses {used}")
    listing = "\n".join(found)
    assert not found, f"a room uses only those below it, {' < '.join(ROOMS)}.\n{listing}"


def test_no_module_uses_a_private_name_of_another():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        found += [f"{place}:{line} uses {name}" for line, name in strange(ast.parse(path.read_text("utf-8")))]
    listing = "\n".join(found)
    assert not found, f"names with an underscore are their module's own: give what is shared a public one.\n{listing}"
