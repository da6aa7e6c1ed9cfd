"""The rooms of the house and the imports between them: read from the source, nothing is run.

python tests/rooms.py [ROOT]     # counts modules, arrows, circles and climbs of a checkout
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

#: Rooms from the top down: a module imports from its own room and the rooms below it. Inside a
#: list a room is a module, a package, or several side by side that do not import each other.
FLOORS = {
    "compressae": [
        "__main__", "cli", "cluster evaluation", "tables text", "coding", "training", "model",
        "model_ops card", "sample", "retrieval", "kernels",
    ],
    "compressae.retrieval": [
        "service export", "store", "baselines", "index", "codes", "io", "metrics devices", "errors",
    ],
    "compressae.retrieval.index": [
        "gpu tuning", "compressed", "paper", "inverted two_stage", "request", "postings",
        "projection exact", "exclusion hot table_rows", "segments", "graph hits sketch",
    ],
    "compressae.retrieval.export": [
        "postings", "arrow elastic milvus postgres qdrant scipy", "rows query", "signs",
    ],
    "compressae.retrieval.store": [
        "cached sharded", "catalogue counters", "rerank_table", "shards packed_table change",
        "view", "files", "names metadata version reader",
    ],
    "compressae.retrieval.codes": ["packed", "sparse fitted", "quantizer base", "residual", "size"],
    "compressae.retrieval.io": [
        "embeddings artifacts labels interactions", "atomic tensorfile parquet hub",
        "plain schema remote",
    ],
    "compressae.training": [
        "loop", "gradient pursuit", "adam batches checkpoint distributed", "config",
    ],
    "compressae.cluster": ["serve", "pool ray", "encode", "units"],
    "compressae.coding": ["plan", "compress", "fit", "coder budget"],
    "compressae.evaluation": [
        "report", "plots", "summary", "protocol", "methods", "drift",
        "quality labels atlas interactions", "pages",
    ],
}  # fmt: skip


def modules(root: Path) -> dict[str, Path]:
    """Source files by module name; links inside the package are followed once."""
    files: dict[str, Path] = {}
    seen: set[Path] = set()
    folders = [root / "compressae"]
    while folders:
        folder = folders.pop()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name != "__pycache__":
                folders.append(path)
            elif path.suffix == ".py":
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                files[name] = path
    return files


def imports(source: str, known: set[str], types: bool = False) -> set[str]:
    """Modules of the package that a file imports, inside functions too.

    Args:
        source: of the file.
        known: all modules of the package.
        types: count imports under ``if TYPE_CHECKING`` too, which are never run.
    """
    names = set()
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    if not types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                skipped |= {inner for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    targets = set()
    for name in names:
        while name and name not in known:  # An imported function stands for its module.
            name = name.rpartition(".")[0]
        if name:
            targets.add(name)
    return targets


def graph(root: Path) -> dict[str, set[str]]:
    """{module: modules that it imports}."""
    files = modules(root)
    known = set(files)
    return {
        name: imports(path.read_text("utf-8"), known) - {name, "compressae"}
        for name, path in files.items()
    }


def place(floor: str, module: str) -> int | None:
    """The row of a module in a floor's list; None if it is not on that floor."""
    if not module.startswith(floor + "."):
        return None
    room = module[len(floor) + 1 :].split(".")[0]
    for row, rooms in enumerate(FLOORS[floor]):
        if room in rooms.split():
            return row
    return None


def climbs(arrows: dict[str, set[str]]) -> list[str]:
    """Imports that go up, or sideways between rooms of one row."""
    wrong = []
    for floor in FLOORS:
        for module, targets in arrows.items():
            own = place(floor, module)
            for target in targets:
                other = place(floor, target)
                if own is None or other is None:
                    continue
                rooms = {name[len(floor) + 1 :].split(".")[0] for name in (module, target)}
                if other < own or (other == own and len(rooms) == 2):
                    wrong.append(f"{module} -> {target}")
    return sorted(set(wrong))


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of two modules or more (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in arrows.get(name, ()):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(sorted(component))

    for name in arrows:
        if name not in order:
            visit(name)
    return found


def rooms_of(arrows: dict[str, set[str]], depth: int = 2) -> dict[str, set[str]]:
    """The same between rooms: the first ``depth`` parts of module names."""

    def room(name: str) -> str:
        parts = name.split(".")
        deeper = depth + (parts[1:2] == ["retrieval"])
        return ".".join(parts[:deeper])

    found: dict[str, set[str]] = defaultdict(set)
    for name, targets in arrows.items():
        found[room(name)] |= {room(target) for target in targets} - {room(name)}
    return dict(found)


def layers(between: dict[str, set[str]]) -> dict[str, int]:
    """The layer of each room: one above the highest room that it imports; circles count once."""
    found: dict[str, int] = {}

    def layer(room: str, above: tuple[str, ...] = ()) -> int:
        if room not in found and room not in above:
            below = [layer(other, (*above, room)) for other in between.get(room, ())]
            found[room] = 1 + max(below, default=0)
        return found.get(room, 0)

    for room in between:
        layer(room)
    return found


def trace(root: Path, between: dict[str, set[str]]) -> None:
    """Print the pairs of functions that call each other across rooms while rows are compressed."""
    sys.path.insert(0, str(root))
    import compressae

    items = compressae.load_sample().embeddings.subset(range(2000))
    model = compressae.train(items, compressae.TrainConfig(latents=256, nonzeros=8, steps=2))
    pairs: set[tuple[str, str, str, str]] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event != "call" or frame.f_back is None:
            return
        ends = []
        for one in (frame.f_back, frame):
            name = one.f_globals.get("__name__", "")
            room = next((r for r in sorted(between, key=len, reverse=True)
                         if name == r or name.startswith(r + ".")), "")  # fmt: skip
            ends += [room, one.f_code.co_qualname]
        if ends[0] and ends[2] and ends[0] != ends[2]:
            pairs.add((ends[0], ends[1], ends[2], ends[3]))

    work = getattr(model, "compress", None) or (lambda x: compressae.compress(model, x))
    sys.setprofile(note)
    try:
        work(items)
    finally:
        sys.setprofile(None)
    rank = layers(between)
    up = [pair for pair in pairs if rank[pair[2]] > rank[pair[0]]]
    print(f"compress(items): {len(pairs)} pairs of functions across rooms, {len(up)} of them up")
    for caller_room, caller, room, callee in sorted(up):
        print(f"  {caller_room}: {caller} -> {room}: {callee}")


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--trace"]
    root = Path(words[0] if words else Path(__file__).parents[1]).resolve()
    arrows = graph(root)
    between = rooms_of(arrows)
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in modules(root).values())
    print(f"{len(arrows)} modules, {lines:,} lines, {sum(map(len, arrows.values()))} imports")
    print(f"{len(between)} rooms, {sum(map(len, between.values()))} arrows between them")
    for what, found in (("modules", circles(arrows)), ("rooms", circles(between))):
        print(f"{len(found)} circles of {what}" + "".join(f"\n  {' <-> '.join(c)}" for c in found))
    print(f"{len(climbs(arrows))} imports that climb" + "".join(f"\n  {c}" for c in climbs(arrows)))
    if "--trace" in sys.argv:
        trace(root, between)


if __name__ == "__main__":
    main()
