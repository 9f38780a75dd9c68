"""What a result depends on: the code that its own code reaches by imports, without comments, docstrings and layout.

:func:`closure` follows the imports of modules from file to file, and :func:`code_hash` hashes what they reach.
:func:`experiment_key` follows what running functions use, from cell to cell of a notebook and into the package.
Files that no import reaches (copies of editors, checkpoints of Jupyter) count for neither. Needs the standard library
alone, since the runner of the notebooks asks before anything is loaded.
"""

import ast
import dis
import enum
import functools
import hashlib
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package

# Libraries whose version can change a number or a time, by the name under which they are imported.
LIBRARIES = {
    "torch": "torch", "torchvision": "torchvision", "timm": "timm", "numpy": "numpy", "scipy": "scipy",
    "sklearn": "scikit-learn", "skimage": "scikit-image", "PIL": "pillow", "pandas": "pandas", "optuna": "optuna",
    "onnxruntime": "onnxruntime", "openvino": "openvino", "nncf": "nncf",
}  # fmt: skip
COLAB = 'if "google.colab" in sys.modules:'  # what the cell that only Colab needs begins with
IMPORTERS = ("import_module", "__import__")
READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")  # of a global name, in bytecode
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, PurePath)


# ------------------------------------------------------------------------------------------------------------- files


def closure(*names: str, root: Path = ROOT) -> dict[str, Path]:
    """Find all modules of the package that importing these can load, those imported inside functions included.

    Args:
        names: modules such as ``"whichbackbone.measure.timing"``; names of other packages are passed over.
        root: folder that holds the package.

    Returns:
        Name and file of each module, sorted by name.
    """
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in found or not (file := _file(name, root)):
            continue
        found[name] = file
        waiting += imported(_text(file), name, root)
        if "." in name:  # importing a module runs the packages above it
            waiting.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


def imported(source: str, module: str = "", root: Path = ROOT) -> set[str]:
    """Name the modules of the package that a source text imports by itself, anywhere in it.

    What it gives to ``import_module`` counts, and what it starts with ``python -m``. Where the name given to
    ``import_module`` is computed, every module counts of the packages that the text imports as such, and of the one
    that the name begins with.

    Args:
        source: Python; of a text that is none, nothing is imported.
        module: name of the module whose text it is, for its relative imports.
        root: folder that holds the package.
    """
    names, packages = _imports(source, module, str(root))
    names = {name for name in names if _file(name, root)}
    for package in packages:
        if (file := _file(package, root)) and file.name == "__init__.py":
            below = (path.stem if path.suffix == ".py" else path.name for path in file.parent.iterdir())
            names |= {f"{package}.{stem}" for stem in below if stem[:2] != "__" and _file(f"{package}.{stem}", root)}
    return names


def code_hash(*names: str, root: Path = ROOT) -> str:
    """Hash the code of the modules that these reach, as 12 hex digits. See :func:`closure` and :func:`canonical`."""
    return _digest(_code(closure(*names, root=root)))


@functools.cache
def canonical(source: str, cell: bool = False) -> str:
    """Write a source text so that equal texts mean equal code: no comments, docstrings, layout or quotes.

    The result is the same under every supported Python. A text that is not Python, such as a cell with a magic, comes
    back as it is.

    Args:
        source: a module, a function, or a cell.
        cell: whether it is a cell of a notebook, where a string alone is an output, and a final semicolon hides one.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source
    return _written(tree, cell) + (";" if cell and _is_quiet(source) else "")


def cell_sources(notebook: Mapping[str, Any]) -> list[str]:
    """Sources of the code cells that decide a notebook's outputs: not empty, of papermill, or for Colab alone."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    own = [cell for cell in cells if "injected-parameters" not in cell.get("metadata", {}).get("tags", ())]
    sources = map("".join, (cell["source"] for cell in own))
    return [source for source in sources if source.strip() and COLAB not in source]


def notebook_imports(notebook: Mapping[str, Any], root: Path = ROOT) -> set[str]:
    """Name the modules of the package that the cells of a notebook import."""
    return set().union(*(imported(_without_magics(source), root=root) for source in cell_sources(notebook)))


def notebook_hash(path: Path, root: Path = ROOT, without: tuple[str, ...] = ()) -> str:
    """Hash the code of a notebook's cells and of all modules that they reach, as 12 hex digits; prose does not count.

    Args:
        path: an ``.ipynb`` file of nbformat 4.
        root: folder that holds the package.
        without: beginnings of the names of modules that do not count.
    """
    notebook = json.loads(_text(path))
    cells = [canonical(source, cell=True) for source in cell_sources(notebook)]
    reached = closure(*notebook_imports(notebook, root), root=root)
    counted = {name: file for name, file in reached.items() if not name.startswith(without)}
    return _digest([*cells, *_code(counted)])


def _without_magics(source: str) -> str:
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())


def _code(modules: Mapping[str, Path]) -> list[str]:
    return [f"{name}\n{canonical(_text(file))}" for name, file in modules.items()]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:12]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _file(name: str, root: Path) -> Path | None:
    """File of a module of the package, or None if there is no such module."""
    parts = name.split(".")
    if parts[0] != PACKAGE or not all(part.isidentifier() for part in parts):
        return None
    path = root.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.parent / f"{path.name}.py") if file.is_file()), None)


@functools.cache
def _imports(source: str, module: str, root: str) -> tuple[frozenset[str], frozenset[str]]:
    """Names that may be imported modules, and packages of which a computed name may import any module."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset(), frozenset()
    file = _file(module, Path(root)) if module else None
    own = module if file and file.name == "__init__.py" else module.rpartition(".")[0]
    names, bound, computes = set(), set(), False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            bound |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = own.split(".")[: len(own.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            names.add(base)
            bound |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.List | ast.Tuple):  # a command: python -m module
            words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
            names |= {str(module) for option, module in pairwise(words) if option == "-m"}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
            computes |= not all(isinstance(argument, ast.Constant) for argument in node.args)
            names |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
            bound |= {own if start.startswith(".") else start.rpartition(".")[0] for start in _starts(node.args[:1])}
    return frozenset(names | bound), frozenset(bound if computes else ())


def _starts(arguments: list[ast.expr]) -> Iterator[str]:
    """What a computed name begins with, where that is written out."""
    for argument in arguments:
        if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
            yield argument.values[0].value
        elif isinstance(argument, ast.BinOp) and isinstance(argument.left, ast.Constant):
            yield str(argument.left.value)


def _written(node: Any, cell: bool = False) -> str:
    """A syntax tree as text, without what changes no result and without what differs between versions of Python."""
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    told = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value if cell else [statement for statement in value if not _is_text(statement)]
        if isinstance(node, ast.JoinedStr) and name == "values":  # Python 3.12 adds empty ones
            value = [part for part in value if not isinstance(part, ast.Constant) or part.value]
        if value is not None and value != [] and name not in ("ctx", "kind", "type_comment"):
            told.append(f"{name}={_written(value)}")
    return f"{type(node).__name__}({','.join(told)})"


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string alone: a docstring, or one that explains what stands above it."""
    return (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str))  # fmt: skip


def _is_quiet(source: str) -> bool:
    """Whether a cell ends with a semicolon."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in silent]
    return tokens[-1:] == [";"]


# ------------------------------------------------------------------------------------------------- running functions


def experiment_key(*things: Any, **settings: Any) -> str:
    """Hash all that the results of an experiment depend on, as 12 hex digits: equal keys, equal experiment.

    It covers the source of the given functions and classes; with it, of what they use of their own module or notebook,
    functions, classes and values, across cells; the closure of the package's modules that all this uses; the settings;
    and the versions of the libraries that are used. No comment, docstring or layout counts.

    A value counts whole if it is plain data, an array, a table, a dataclass or a namespace (of which only those fields
    that the code names). Of any other object only its class counts: what an open store or a generator of random
    numbers holds changes from run to run.

    Args:
        things: functions, classes, modules of the package or their names.
        settings: what else decides the result, such as counts and sizes.
    """
    uses = _Uses()
    for thing in things:
        uses.start(thing)
    told = [f"{name} = {uses.value(value)}" for name, value in sorted(settings.items())]
    modules = closure(*uses.modules)
    for file in modules.values():
        uses.libraries |= _libraries(_text(file))
    versions = [f"{name} {_version(LIBRARIES[name])}" for name in sorted(uses.libraries & LIBRARIES.keys())]
    return _digest([*sorted(uses.parts), *_code(modules), *told, *versions])


class _Uses:
    """What things use: ``parts`` of code and values as text, ``modules`` of the package, and ``libraries``."""

    def __init__(self) -> None:
        self.parts, self.modules, self.libraries = set(), set(), set()
        self.homes = set()  # modules whose things are followed one by one
        self.seen = {}  # by number; the things are held, so that no other gets the number of one

    def start(self, thing: Any) -> None:
        """Add something that the caller names."""
        if isinstance(thing, str):
            if not _file(thing, ROOT):
                raise ValueError(f"no module {thing!r} in the package: name one, or give a function")
            self.modules.add(thing)
            return
        inner = thing
        while isinstance(inner, functools.partial):
            inner = inner.func
        if not isinstance(inner, ModuleType) and (home := getattr(inner, "__module__", None)):
            self.homes.add(home)
        self.parts.add(f"given {self.value(thing)}")

    def value(self, thing: Any) -> str:
        """Write a value as text that tells it from others, and add what it uses."""
        if isinstance(thing, PLAIN) and not isinstance(thing, enum.Enum):
            return repr(thing)
        if isinstance(thing, ModuleType):
            self._reach(thing.__name__)
            return thing.__name__
        if isinstance(thing, functools.partial):
            return f"partial({self.value(thing.func)}, {self.value(thing.args)}, {self.value(thing.keywords)})"
        if isinstance(thing, MethodType):
            return f"{self.value(thing.__self__)}.{self.value(thing.__func__)}"
        if isinstance(thing, type) or callable(getattr(thing, "__wrapped__", None)) or inspect.isroutine(thing):
            self._follow(thing)
            return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__name__)}"
        if id(thing) in self.seen:
            return self.seen[id(thing)][1]
        self.seen[id(thing)] = (thing, f"another {type(thing).__name__}")  # while it is looked into
        text = self._contents(thing)
        self.seen[id(thing)] = (thing, text)
        return text

    def _contents(self, thing: Any) -> str:
        kind = type(thing)
        self._follow(kind)
        if isinstance(thing, Mapping):
            inside = [f"{self.value(key)}: {self.value(value)}" for key, value in thing.items()]
        elif isinstance(thing, list | tuple):
            inside = map(self.value, thing)
        elif isinstance(thing, set | frozenset):
            inside = sorted(map(self.value, thing))
        elif isinstance(thing, enum.Enum):
            inside = [thing.name, self.value(thing.value)]
        elif is_dataclass(thing):
            inside = [f"{field.name}={self.value(getattr(thing, field.name, None))}" for field in fields(thing)]
        elif isinstance(thing, SimpleNamespace) or kind.__module__ in self.homes:
            inside = [f"{name}={self.value(value)}" for name, value in getattr(thing, "__dict__", {}).items()]
        elif hasattr(thing, "to_csv"):  # a table of pandas
            inside = [hashlib.sha256(thing.to_csv().encode()).hexdigest()]
        elif hasattr(thing, "dtype") and hasattr(thing, "tolist"):  # an array of numpy, a tensor of torch
            inside = [str(thing.dtype), hashlib.sha256(repr(thing.tolist()).encode()).hexdigest()]
        else:
            text = "" if kind.__module__.partition(".")[0] == PACKAGE else repr(thing)
            inside = [text if " at 0x" not in text and len(text) < 1000 else ""]
        return f"{kind.__qualname__}({', '.join(inside)})"

    def _reach(self, module: str) -> None:
        top = module.partition(".")[0]
        (self.modules if top == PACKAGE else self.libraries).add(module if top == PACKAGE else top)

    def _follow(self, thing: Any) -> None:
        """Add the code of a function or a class of a home, of any other the module or library that it comes from."""
        home = getattr(thing, "__module__", None) or ""
        if id(thing) in self.seen or home == "builtins":
            return
        self.seen[id(thing)] = (thing, "")
        if inner := getattr(thing, "__wrapped__", None):  # behind a cache or another decorator
            self._follow(inner)
        if home not in self.homes:
            self._reach(home)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, FunctionType):
            self._function(thing)

    def _class(self, cls: type) -> None:
        """By its parts, since the source of a class made in a notebook is not to be had."""
        name = cls.__qualname__
        notes = cls.__dict__.get("__annotations__", {})
        self.parts.add(f"class {name}({', '.join(map(self.value, cls.__bases__))}) {notes}")
        if is_dataclass(cls):
            made = {field.name: (field.default, field.default_factory) for field in fields(cls)}
            self.parts.add(f"fields of {name}: {self.value(made)}")
        for key, value in vars(cls).items():
            inner = [getattr(value, way, None) for way in ("fget", "fset", "fdel", "__func__", "func")]
            functions = [f for f in [value, *inner] if isinstance(f, FunctionType) or hasattr(f, "__wrapped__")]
            for function in functions:
                self._follow(function)
            if not functions and not key.startswith("__"):
                self.parts.add(f"{name}.{key} = {self.value(value)}")

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        source = _source(code)
        self.parts.add(canonical(source) if source else _bytecode(code))
        for name in imported(source):
            self._reach(name)
        self.libraries |= _libraries(source)
        for name, *attributes in _globals(code):
            if name in function.__globals__:
                self._use(name, function.__globals__[name], attributes)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._use(name, cell.cell_contents, [])
            except ValueError:  # not filled yet
                continue
        if given := [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            self.parts.add(f"{function.__qualname__} by default {self.value(given)}")

    def _use(self, name: str, thing: Any, attributes: list[str]) -> None:
        """Add what a function means by a global name, of a namespace or a module only what it takes from there."""
        if isinstance(thing, ModuleType):
            self._reach(thing.__name__)
            inner = getattr(thing, attributes[0], None) if attributes else None
            if isinstance(inner, ModuleType) and inner.__name__.startswith(f"{thing.__name__}."):
                self._use(f"{name}.{attributes[0]}", inner, attributes[1:])
        elif isinstance(thing, SimpleNamespace) and attributes:
            self.parts.add(f"{name}.{attributes[0]} = {self.value(getattr(thing, attributes[0], None))}")
        else:
            self.parts.add(f"{name} = {self.value(thing)}")


def _source(code: CodeType) -> str:
    """Source of a function; "" of one that has none to itself, a lambda or one made by exec."""
    if code.co_name == "<lambda>":
        return ""
    try:
        return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError, IndentationError, tokenize.TokenError):
        return ""


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _globals(code: CodeType) -> Iterator[list[str]]:
    """Global names that a function reads, those of its inner functions included, each with attributes taken of it."""
    chain = []
    for step in dis.get_instructions(code):
        if chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain.append(step.argval)
            continue
        if chain:
            yield chain
        chain = [step.argval] if step.opname in READS else []
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _globals(inner)


@functools.cache
def _libraries(source: str) -> frozenset[str]:
    """Top names of all that a text imports."""
    names, _ = _imports(source, "", str(ROOT))
    return frozenset(name.partition(".")[0] for name in names)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
