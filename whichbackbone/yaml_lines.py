"""Read YAML whose mappings know in which line they stand, so that an error can name it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


class Located(dict):
    """A mapping of a YAML file.

    Attributes:
        line: where it begins, counted from 1.
        lines: key -> line of the key.
    """

    line: int = 0
    lines: dict[Any, int]

    def line_of(self, key: Any) -> int:
        """Return the line of a key, or of the mapping where it lacks the key."""
        return self.lines.get(key, self.line)


def load(path: Path, error: Callable[[str], Exception] = ValueError) -> Any:
    """Read a file of plain YAML (no tags); every mapping in it is a :class:`Located`.

    Args:
        path: the file, in UTF-8.
        error: makes the exception from one line of text.

    Returns:
        What the file holds; None for an empty file.

    Raises:
        error: when the file is missing or unreadable, is no YAML, or has a mapping with one key twice; the message
            begins with the file's name and, where there is one, the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as fault:
        raise error(f"{path.name}: cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise error(f"{path.name}, line {line}: not UTF-8") from None
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise error(f"{path.name}, line {mark.line + 1 if mark else '?'}: not YAML: {fault.problem}") from None
    except yaml.YAMLError as fault:  # a character that YAML does not allow
        line = path.read_text(encoding="utf-8")[: getattr(fault, "position", 0)].count("\n") + 1
        raise error(f"{path.name}, line {line}: not YAML: {getattr(fault, 'reason', fault)}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML (ten times as fast where libyaml is there) with :class:`Located` mappings."""


def _mapping(loader: yaml.Loader, node: yaml.MappingNode) -> Located:
    found = Located()
    found.line, found.lines = node.start_mark.line + 1, {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float) or key in found:
            fault = f"{key!r} stands twice" if isinstance(key, str | int | float) else f"{key!r} is no name"
            raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
        found.lines[key] = key_node.start_mark.line + 1
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
