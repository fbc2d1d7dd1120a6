"""How big the core is, and how long the way of a call: python scripts/core_figures.py [COMMIT ...]

Prints the figures of each commit (taken out of git into a temporary folder), or of the working tree where none is named. The
core is the package without what stands on its public names (`viz`, `dataset`, the command, the demo).

Code lines are those that hold something other than an import, a docstring or a comment. A function's are those of its body, of
the functions inside it too. An arrow leads from a file to one that it imports, also where it does so inside a function; imports
for type checkers only are counted apart. The package's own `__init__` is the door that people come in by: arrows to it
are left out. A call is traced on its second run: how many files of ours it meets, how many functions that have a name, and how
many calls, those of lambdas and comprehensions with them (of which newer versions of Python make fewer).
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import sys
import tempfile
import tokenize
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
#: What stands beside the core.
BESIDE = ("viz", "dataset", "_cli", "_demo")
LONG_FILE, LONG_FUNCTION = 300, 25
_EMPTY = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


class Function(NamedTuple):
    """A function, named as its class or the function around it names it."""

    name: str
    code: int


class File(NamedTuple):
    """A file of the package."""

    name: str
    """Its path in the package, without the suffix: ``_core/tap``; ``_core/__init__`` for a folder's."""
    lines: int
    code: int
    functions: tuple[Function, ...]
    imports: frozenset[str]
    """The files of the package that it imports when it runs."""
    late: frozenset[str]
    """Those of them that it imports inside functions."""
    typing: frozenset[str]
    """The files that it imports for type checkers only."""
    outside: frozenset[str]
    """The packages that it imports from elsewhere."""
    door: bool
    """Whether it imports the package itself, as people do."""

    @property
    def wing(self) -> str:
        """The folder it is in; ``.`` for the ground."""
        return self.name.split("/")[0] if "/" in self.name else "."


class Way(NamedTuple):
    """What one call meets of the package."""

    files: int
    functions: int
    calls: int


def files_of(package: Path) -> list[File]:
    """Every file of a package, read but not imported."""
    paths = {path.relative_to(package).with_suffix("").as_posix(): path for path in sorted(package.rglob("*.py"))}
    return [_file(name, path.read_text(), package.name, paths) for name, path in paths.items()]


def core_of(files: Iterable[File]) -> list[File]:
    return [file for file in files if file.wing not in BESIDE]


def _file(name: str, text: str, package: str, known: Iterable[str]) -> File:
    tree = ast.parse(text)
    code = _code_lines(text, tree)
    when: dict[str, set[str]] = {"now": set(), "late": set(), "typing": set()}
    outside = set()
    for moment, node in _imports(tree, "now"):
        for module in _modules(node, name, package):
            if module[:1] == (package,):
                when[moment].add(_file_named(module[1:], known))
            else:
                outside.add(module[0])
    door = "__init__" in when["now"] | when["late"]
    for found in when.values():
        found.discard("__init__")
    running = when["now"] | when["late"]
    functions = tuple(Function(called, len(code & _body(node))) for called, node in _functions(tree, ""))
    return File(
        name=name,
        lines=text.count("\n"),
        code=len(code),
        functions=functions,
        imports=frozenset(running),
        late=frozenset(when["late"]),
        typing=frozenset(when["typing"] - running),
        outside=frozenset(outside),
        door=door,
    )


def _code_lines(text: str, tree: ast.Module) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in _EMPTY for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            lines -= _span(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= _span(node)  # a docstring: of a module, a class, a function, or a field
    return lines


def _span(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    first = min([node.body[0].lineno, *(part.lineno for part in getattr(node.body[0], "decorator_list", ()))])
    return set(range(first, (node.end_lineno or first) + 1))


def _functions(node: ast.AST, around: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inside = around
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = f"{around}{child.name}."
            if not isinstance(child, ast.ClassDef):
                yield around + child.name, child
        yield from _functions(child, inside)


def _imports(node: ast.AST, moment: str) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """The imports below `node`, with the moment when they run: at once, late (in a function), or for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield moment, child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.body:
                yield from _imports(ast.Module([part], []), "typing")
            for part in child.orelse:
                yield from _imports(ast.Module([part], []), moment)
        else:
            within = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and moment == "now"
            yield from _imports(child, "late" if within else moment)


def _modules(node: ast.Import | ast.ImportFrom, name: str, package: str) -> Iterator[tuple[str, ...]]:
    """The modules that an import may mean, as parts of their names: with ``from a import b``, b may be one."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
        return
    base = (package, *name.split("/"))[: -node.level] if node.level else ()
    base += tuple(node.module.split(".")) if node.module else ()
    yield from ((*base, alias.name) for alias in node.names)


def _file_named(parts: tuple[str, ...], known: Iterable[str]) -> str:
    """The file that holds a module, or what is imported from it."""
    for end in range(len(parts), -1, -1):
        path = "/".join(parts[:end])
        for file in (path, f"{path}/__init__".lstrip("/")):
            if file in known:
                return file
    raise ValueError(f"no file of the package holds {'.'.join(parts)}")


def circles(files: Sequence[File], *, typing: bool = False) -> list[list[str]]:
    """The files that import each other, over however many others; those for type checkers with them, if asked."""
    arrows = {file.name: file.imports | file.typing if typing else file.imports for file in files}
    reach: dict[str, set[str]] = {}
    for name in arrows:
        found: set[str] = set()
        ahead = list(arrows[name])
        while ahead:
            if (there := ahead.pop()) not in found:
                found.add(there)
                ahead.extend(arrows.get(there, ()))
        reach[name] = found
    rings = {tuple(sorted(other for other in reach[name] if name in reach.get(other, ()))) for name in arrows}
    return sorted(list(ring) for ring in rings if ring)


def between_wings(files: Sequence[File]) -> Counter[tuple[str, str]]:
    """How many arrows lead from each wing into each other one."""
    wing = {file.name: file.wing for file in files}
    pairs = ((file.wing, wing[name]) for file in files for name in file.imports if name in wing)
    return Counter(pair for pair in pairs if pair[0] != pair[1])


def way(call: Callable[[], object], package: Path) -> Way:
    """What `call` meets of the package, the second time."""
    within, met = f"{package.resolve()}/", Counter[types.CodeType]()

    def see(frame: types.FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(within):
            met[frame.f_code] += 1

    call()
    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    named = sum(not code.co_name.startswith("<") for code in met)
    return Way(len({code.co_filename for code in met}), named, sum(met.values()))


def calls(fa: Any) -> Mapping[str, Callable[[], object]]:
    """Calls of every kind, on a net of two convolutions."""
    import torch
    from torch import nn

    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    noisy = fa.noise_tunnel(fa.saliency)
    return {
        "grad_cam, layer": lambda: fa.grad_cam(net, x, layer="2", target=3),
        "saliency": lambda: fa.saliency(net, x, target=3),
        "integrated_gradients, input": lambda: fa.integrated_gradients(net, x, target=3),
        "integrated_gradients, layer": lambda: fa.integrated_gradients(net, x, layer="2", target=3),
        "deep_lift, input": lambda: fa.deep_lift(net, x, target=3),
        "feature_ablation, layer": lambda: fa.feature_ablation(net, x, layer="2", target=3),
        "conductance, layer": lambda: fa.conductance(net, x, layer="2", target=3),
        "noise_tunnel(saliency)": lambda: noisy(net, x, target=3),
    }


def ways(tree: Path) -> dict[str, Way]:
    """The ways of all calls through the package in `tree`, in a process of its own: this one may have imported another."""
    found = subprocess.run([sys.executable, __file__, "--ways", str(tree)], stdout=subprocess.PIPE, text=True, check=True)
    return {name: Way(*figures) for name, figures in json.loads(found.stdout).items()}


def _ways_here(tree: Path) -> dict[str, Way]:
    sys.path.insert(0, str(tree))
    import funattr as fa

    package = Path(fa.__file__).parent
    if package.resolve() != (tree / "funattr").resolve():
        raise RuntimeError(f"expected the package in {tree}, got the one in {package.parent}")
    return {name: way(call, package) for name, call in calls(fa).items()}


def report(tree: Path) -> str:
    """All figures of the package in `tree`."""
    every = files_of(tree / "funattr")
    core = core_of(every)
    functions = sorted(((f, file) for file in core for f in file.functions), key=lambda found: -found[0].code)
    long = [f"{function.code} {file.name}:{function.name}" for function, file in functions if function.code > LONG_FUNCTION]
    files = [f"{file.lines} {file.name}" for file in core if file.lines > LONG_FILE]
    wings = Counter[str]()
    for file in core:
        wings[file.wing] += file.code
    arrows = between_wings(core)
    lines = [
        f"core: {len(core)} files, {sum(file.lines for file in core):,} lines, {sum(wings.values()):,} of code",
        *(f"  {wing:<12} {code:>5,} in {sum(f.wing == wing for f in core)} files" for wing, code in sorted(wings.items())),
        *_listed(f"files over {LONG_FILE} lines", files),
        *_listed(f"functions over {LONG_FUNCTION} code lines, of {len(functions)}", long),
        *_listed("circles of files", [" ".join(ring) for ring in circles(every)]),
        *_listed("circles with imports for type checkers", [" ".join(ring) for ring in circles(every, typing=True)]),
        f"arrows between files: {sum(len(f.imports) for f in core)}, for type checkers {sum(len(f.typing) for f in core)}",
        *_listed("arrows between wings", [f"{n:>3} {source} -> {end}" for (source, end), n in sorted(arrows.items())]),
        "ways of calls:           files functions calls",
        *(f"  {name:<28} {w.files:>2} {w.functions:>9} {w.calls:>5}" for name, w in ways(tree).items()),
    ]
    return "\n".join(lines)


def _listed(what: str, found: list[str]) -> list[str]:
    return [f"{what}: {len(found)}", *(f"  {line}" for line in found)]


def taken_out(commit: str, folder: Path) -> Path:
    """The package as it is at a commit, put into a folder."""
    packed = subprocess.run(["git", "archive", commit, "funattr"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("commits", nargs="*", help="commits, branches or tags; none: the working tree")
    parser.add_argument("--ways", type=Path, help=argparse.SUPPRESS)  # what it asks of itself, in a process of its own
    asked = parser.parse_args()
    if asked.ways:
        print(json.dumps(_ways_here(asked.ways)))
        return
    if not asked.commits:
        print(report(ROOT))
    for commit in asked.commits:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{commit}\n{report(taken_out(commit, Path(folder)))}\n")


if __name__ == "__main__":
    main()
