"""The code of transformers' models as syntax trees: which code a configuration class decides."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import transformers

MODELS = Path(transformers.__file__).parent / "models"

OTHER_FILES = re.compile(
    r"(__init__|modular|configuration|tokenization|processing|image_processing|video_processing"
    r"|feature_extraction|convert)"
)
"""Files in the folder of a model without code of the model."""

Place = tuple[Path, str]
"""A file, and the name of a class, function or constant in it."""


@dataclass
class Module:
    """One modeling file: its definitions, and those that it imports from other modeling files."""

    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Place] = field(default_factory=dict)


@cache
def module(path: Path) -> Module:
    """Return the definitions of a file."""
    found = Module()
    for node in _statements(ast.parse(path.read_text()).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found.definitions |= dict.fromkeys(names, node)
        elif isinstance(node, ast.ImportFrom) and node.level:
            file = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            file = file.with_suffix(".py")
            is_model = MODELS in file.parents and not OTHER_FILES.match(file.name)
            if is_model and file.exists():
                found.imports |= {
                    name.asname or name.name: (file, name.name) for name in node.names
                }
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those inside of `if` and `try`."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body + node.orelse)
        else:
            yield node


@cache
def code(place: Place) -> ast.stmt:
    """Return a definition without what does not run in a forward pass.

    These are decorators, the initialisation of weights, and constants such as `_no_split_modules`.
    """
    node = module(place[0]).definitions[place[1]]
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node
    body = [part for part in node.body if not _is_bookkeeping(part)]
    fields = {name: getattr(node, name) for name in node._fields}
    return type(node)(**{**fields, "decorator_list": [], "body": body})


def _is_bookkeeping(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == "_init_weights"
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    return node.targets[0].id.startswith("_")


@cache
def names(place: Place) -> frozenset[str]:
    """Return all names in a definition: variables, attributes, arguments, classes, functions."""
    found = set()
    for node in ast.walk(code(place)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
    return frozenset(found)


@cache
def config_classes(place: Place) -> frozenset[str]:
    """Return the configuration classes that a class names: its annotations, else its base's."""
    path, name = place
    node = module(path).definitions.get(name)
    if node is None and name in module(path).imports:
        return config_classes(module(path).imports[name])
    if not isinstance(node, ast.ClassDef):
        return frozenset()
    annotations: list[ast.expr | None] = []
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            annotations[:0] = [a.annotation for a in part.args.args if a.arg == "config"]
        elif isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == "config":
            annotations.append(part.annotation)
        elif isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "config_class":
            annotations.append(part.value)
    for annotation in annotations:
        found = re.findall(r"\w+Config\b", ast.unparse(annotation)) if annotation else []
        if found:
            return frozenset(found)
    bases = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id != name]
    inherited = (config_classes((path, base)) for base in bases)
    return next((names for names in inherited if names), frozenset())


def modeling_files(folder: str) -> list[Path]:
    """Return the files with the code of a model; some older models have more than one."""
    files = (MODELS / folder).glob("*.py")
    return sorted(file for file in files if not OTHER_FILES.match(file.name))


def code_of_config(configs: frozenset[str], files: list[Path]) -> set[Place]:
    """Return the definitions that models with a configuration class run.

    They are the classes that name the configuration class, and what these use and inherit, in
    other files as well. Classes that name other configuration classes are left out: they are the
    code of other parts.

    Args:
        configs: the name of the configuration class, and those of the classes that it extends.
        files: where the models are.
    """
    todo = [
        (path, name)
        for path in files
        for name, node in module(path).definitions.items()
        if isinstance(node, ast.ClassDef) and configs & config_classes((path, name))
    ]
    found: set[Place] = set()
    while todo:
        place = todo.pop()
        path, name = place
        if name not in module(path).definitions:
            todo += [module(path).imports[name]] if name in module(path).imports else []
            continue
        if place in found or name.endswith("PreTrainedModel"):
            continue
        named = config_classes(place)
        if named and not named & configs:
            continue
        found.add(place)
        known = module(path).definitions.keys() | module(path).imports.keys()
        todo += [(path, used) for used in names(place) & known if used != name]
    return found


def assignments(place: Place) -> Iterator[tuple[str, ast.expr]]:
    """Yield the attributes of `self` that a definition assigns, and their values."""
    for node in ast.walk(code(place)):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                yield target.attr, node.value


def calls(value: ast.expr) -> list[str]:
    """Return the names of what an expression calls, the last part of each."""
    return [
        ast.unparse(node.func).rpartition(".")[2]
        for node in ast.walk(value)
        if isinstance(node, ast.Call)
    ]
