"""Values set in a plan's text, its comments and order kept. Pure."""

from __future__ import annotations

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode


def with_value(text: str, path: tuple[str, ...], value: str) -> str | None:
    """Returns the text with `value` (YAML) under these keys: written over, or put in before the mapping's first key.

    A key of the plan itself that is not there comes at the end, with a mapping where it is to hold one. None where the
    path leads to no mapping, or a value is there that is a mapping or a list, such as a sweep.
    """
    node: Node | None = yaml.compose(text, yaml.SafeLoader)
    for place, key in enumerate(path[:-1]):
        held = _value(node, key)
        if held is None:
            for inner in reversed(path[place + 1 :]):
                value = f"{{{inner}: {value}}}"
            return with_value(text, path[: place + 1], value)
        node = held
    if not isinstance(node, MappingNode) or not node.value:
        return None
    key, held = path[-1], _value(node, path[-1])
    if held is not None:
        is_scalar = isinstance(held, ScalarNode) or key == "warmup"
        return text[: held.start_mark.index] + value + text[held.end_mark.index :] if is_scalar else None
    if len(path) == 1 and not node.flow_style:
        return f"{text.rstrip()}\n{key}: {value}\n"
    first = node.value[0][0].start_mark
    between = ", " if node.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}{key}: {value}{between}{text[first.index :]}"


def _value(node: Node | None, key: str) -> Node | None:
    pairs = node.value if isinstance(node, MappingNode) else ()
    return next((value for name, value in pairs if name.value == key), None)
