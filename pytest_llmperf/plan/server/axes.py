"""Server entries of a plan that stand for several configurations: swept values and named combinations of arguments.

Anything inside an entry may be `{sweep: ...}`. The entry's configurations are the product of its axes, each a
ServerConfig like one that is written out, with the values in its name: `grid.tp2.seqs64`.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from pytest_llmperf.boundary.literals import is_secret
from pytest_llmperf.plan.combinations import KEY, Variant, read_combinations, validate_variants
from pytest_llmperf.plan.fields import EntryError, entry
from pytest_llmperf.plan.server.base import ArgValue, argument_name
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.units import parse_sweep

MOST_CONFIGURATIONS = 1000
"""Configurations of one entry; more is a slip of the pen, not a plan."""
_SHOWN = 8
"""Names in a message."""
_SHORT = {
    "tensor-parallel-size": "tp{}",
    "pipeline-parallel-size": "pp{}",
    "data-parallel-size": "dp{}",
    "max-num-seqs": "seqs{}",
    "max-num-batched-tokens": "tokens{}",
    "gpu-memory-utilization": "mem{}",
    "replicas": "replicas{}",
    "max_batch_size": "batch{}",
    "max-batch-size": "bs{}",
    "input-len": "isl{}",
    "output-len": "osl{}",
    "precision": "{}",
    "flow": "{}",
    "instance_group.count": "instances{}",
    "dynamic_batching.max_queue_delay_microseconds": "delay{}us",
    KEY: "{}",
}
"""Short forms for the most usual swept values in names; any other is written as `block_size_16`."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that differs between the configurations of an entry."""

    name: str
    """The argument (`max-num-seqs`) or field (`instance_group.count`); `combinations` for named combinations."""
    path: tuple[str, ...]
    """Keys from the entry to the value; places in lists as digits."""
    values: tuple[ArgValue, ...]
    """Scalars in the plan's order; of combinations their names. None: not given, so the engine's own default."""

    def label(self, value: ArgValue) -> str:
        """The value as part of a server's name: `seqs64`, `kv_cache_dtype_fp8`."""
        template = _SHORT.get(self.name, f"{_identifier(self.name)}_{{}}")
        if any(map(is_secret, self.path)):
            return template.format(self.values.index(value) + 1)
        return template.format(_identifier(_written(value)))


@dataclass(frozen=True, slots=True)
class ServerSpace:
    """A server entry and the configurations that it stands for: one, or the product of its axes."""

    name: str
    axes: tuple[Axis, ...]
    """Axes in the plan's order; none where the entry is a single configuration."""
    configs: tuple[ServerConfig, ...]
    """The product in order; the last axis changes from one to the next."""

    def config(self, coordinates: Sequence[int]) -> ServerConfig:
        """The configuration of one position per axis, from 0. IndexError outside the axes."""
        place = 0
        for axis, at in zip(self.axes, coordinates, strict=True):
            if not 0 <= at < len(axis.values):
                raise IndexError(f"{axis.name} has {len(axis.values)} values, and no number {at}")
            place = place * len(axis.values) + at
        return self.configs[place]

    def coordinates(self) -> Iterator[tuple[int, ...]]:
        """The coordinates of `configs`, in its order."""
        return itertools.product(*(range(len(axis.values)) for axis in self.axes))

    def each(self, change: Callable[[ServerConfig], ServerConfig]) -> ServerSpace:
        """The same with `change` made to every configuration."""
        return replace(self, configs=tuple(map(change, self.configs)))

    def named(self, name: str) -> ServerSpace:
        """The same with the entry's name, and every configuration with its own."""
        names = [".".join([name, *self._labels(at)]) for at in self.coordinates()]
        configs = zip(names, self.configs, strict=True)
        return ServerSpace(name, self.axes, tuple(one.model_copy(update={"name": its}) for its, one in configs))

    def _labels(self, coordinates: Sequence[int]) -> list[str]:
        return [axis.label(axis.values[at]) for axis, at in zip(self.axes, coordinates, strict=True)]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _server_space,
            handler.generate_schema(Annotated[ServerConfig, Field(discriminator="engine")]),
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped),
        )


def single_config(spaces: Mapping[str, ServerSpace], name: str) -> ServerConfig:
    """The configuration of this name. ValueError where the name is that of several; KeyError where it is nobody's."""
    for space in spaces.values():
        for config in space.configs:
            if config.name == name:
                return config
    names = [config.name for config in spaces[name].configs]
    shown = ", ".join(names if len(names) <= _SHOWN else [*names[:_SHOWN], "..."])
    raise ValueError(f"{name!r} stands for {len(names)} configurations; name one of them: {shown}")


def written_out(given: Mapping[str, Any], space: ServerSpace, coordinates: Sequence[int]) -> dict[str, Any]:
    """The entry as a plan would write it that means this one of its configurations; `given` is the plan's data."""
    chosen = {axis: axis.values[at] for axis, at in zip(space.axes, coordinates, strict=True)}
    return dict(_variant(given, chosen).data)


def _dumped(space: ServerSpace) -> list[Any]:
    return [config.model_dump(mode="json") for config in space.configs]


def _server_space(given: object, validate: ValidatorFunctionWrapHandler) -> ServerSpace:
    """Validates a server entry for pydantic; the entry's name is not known yet."""
    if isinstance(given, ServerSpace):
        return given
    axes = tuple(_axes(given)) if isinstance(given, Mapping) else ()
    if not axes:
        return ServerSpace("", (), (validate(given),))
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_CONFIGURATIONS:
        sizes = " x ".join(str(len(axis.values)) for axis in axes)
        raise ValueError(f"{sizes} = {count} configurations; at most {MOST_CONFIGURATIONS} are allowed")
    assert isinstance(given, Mapping)
    chosen = itertools.product(*(axis.values for axis in axes))
    variants = [_variant(given, dict(zip(axes, values, strict=True))) for values in chosen]
    return ServerSpace("", axes, tuple(validate_variants(variants, validate)))


def _axes(given: Mapping[str, Any]) -> Iterator[Axis]:
    """Axes in the order of the entry's keys."""
    found = [
        Axis(KEY, (KEY,), tuple(_server_combinations(given))) if path == (KEY,) else _axis(path, swept)
        for path, swept in _swept(given, ())
    ]
    names = [axis.name for axis in found]
    for axis in found:
        yield axis if names.count(axis.name) == 1 else replace(axis, name=".".join(axis.path))


def _swept(given: object, path: tuple[str, ...], above: tuple[int, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every `{sweep: ...}` and the combinations: the path and what stands there.

    What contains itself (YAML's aliases can) is passed over; pydantic says so.
    """
    if path == (KEY,):
        yield path, given
    elif isinstance(given, Mapping) and "sweep" in given:
        if len(given) > 1:
            raise EntryError(f"`sweep` stands alone, without {', '.join(map(str, given.keys() - {'sweep'}))}", *path)
        yield path, given["sweep"]
    elif isinstance(given, Mapping | list) and id(given) not in above:
        for key, value in given.items() if isinstance(given, Mapping) else enumerate(given):
            yield from _swept(value, (*path, str(key)), (*above, id(given)))


def _axis(path: tuple[str, ...], swept: object) -> Axis:
    with entry(*path):
        axis = Axis(_axis_name(path), path, parse_values(swept))
        labels: dict[str, ArgValue] = {}
        for value in axis.values:
            label = axis.label(value)
            if label in labels:
                raise ValueError(
                    f"{labels[label]!r} and {value!r} would both be called {label!r} in test ids; give them names in "
                    f"`{KEY}`"
                )
            labels[label] = value
        return axis


def _axis_name(path: tuple[str, ...]) -> str:
    """The argument, or the field: without the name of the model that it is of, and without places in lists."""
    if path[0] == "args" and len(path) > 1:
        return ".".join((argument_name(path[1]), *path[2:]))
    within = path[2:] if path[0] == "models" and len(path) > 2 else path
    return ".".join(key for key in within if not key.isdigit())


def parse_values(given: object) -> tuple[ArgValue, ...]:
    """Values of a server's sweep: `1:8` doubles, `100:500:50` steps; a list holds numbers, texts, true, false, null."""
    if not isinstance(given, list | tuple):
        return tuple(int(value) if value == int(value) else float(f"{value:.15g}") for value in parse_sweep(given))
    if not given:
        raise ValueError("a sweep's list is empty")
    for value in given:
        if not (value is None or isinstance(value, str | bool | int | float)):
            raise ValueError(f"a sweep's list holds numbers, texts, true, false and null; {value!r} is none of them")
    if len({(type(value), value) for value in given}) != len(given):
        raise ValueError(f"sweep {list(given)!r} names a value twice")
    return tuple(given)


def _server_combinations(given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entry's combinations; their arguments are swept nowhere else."""
    named = read_combinations(given[KEY])
    args = given.get("args")
    swept = {argument_name(path[0]) for path, _ in _swept(args, ()) if path} if isinstance(args, Mapping) else set()
    for name, combination in named.items():
        for arg, value in combination.items():
            if argument_name(str(arg)) in swept:
                raise EntryError(f"{arg} is swept in `args` too; leave it out of one of the two", KEY, name, str(arg))
            if next(_swept(value, ()), None):
                raise EntryError("a combination holds values, no sweeps; write those in `args`", KEY, name, str(arg))
    return named


def _variant(given: Mapping[str, Any], chosen: Mapping[Axis, ArgValue]) -> Variant:
    data = copy.deepcopy({key: value for key, value in given.items() if key != KEY})
    tag = str(given.get("engine"))  # pydantic's place of a mistake in a union begins with it
    written_at: dict[tuple[str, ...], tuple[str, ...]] = {}
    for axis, value in chosen.items():
        if axis.path == (KEY,):
            own: Mapping[str, Any] = given[KEY][value]
            data["args"] = _merged_args(data.get("args", {}), own)
            written_at |= {(tag, "args", argument_name(str(arg))): (tag, KEY, str(value), str(arg)) for arg in own}
        else:
            _put(data, axis.path, value)
            if axis.path[0] == "args":
                written_at[(tag, "args", argument_name(axis.path[1]))] = (tag, *axis.path[:2])
    return Variant(".".join(axis.label(value) for axis, value in chosen.items()), data, written_at)


def _merged_args(args: Any, own: Mapping[str, Any]) -> Any:
    """A combination's arguments in the place of the entry's, however either spells them."""
    if not isinstance(args, Mapping):
        return args
    brought = {argument_name(str(arg)) for arg in own}
    return {**{arg: value for arg, value in args.items() if argument_name(str(arg)) not in brought}, **own}


def _put(data: Any, path: Sequence[str], value: ArgValue) -> None:
    for key in path[:-1]:
        data = data[int(key)] if isinstance(data, list) else data[_key(data, key)]
    data[int(path[-1]) if isinstance(data, list) else _key(data, path[-1])] = value


def _key(data: Mapping[Any, Any], written: str) -> Any:
    """YAML's keys may be numbers."""
    return next(key for key in data if str(key) == written)


def _written(value: ArgValue) -> str:
    """The value as YAML writes it; of a path the last part."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    return text.rstrip("/").rpartition("/")[2]


def _identifier(text: str) -> str:
    """The text with '_' for all that a test id cannot have."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "_", text)
