"""The bodies that kubectl and helm write in protobuf: secrets and namespaces, as far as they fill them in."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from store import Thing

MAGIC = b"k8s\x00"
_META = {1: "name", 2: "generateName", 3: "namespace", 5: "uid", 6: "resourceVersion"}
_MAPS = {11: "labels", 12: "annotations"}


def decode(body: bytes) -> Thing:
    """The object in the envelope. Of its own fields only `data` and `type` are read, which secrets have."""
    envelope = dict(_fields(body.removeprefix(MAGIC)))
    kind = dict(_fields(envelope[1]))
    content = list(_fields(envelope[2]))
    thing: Thing = {"apiVersion": kind[1].decode(), "kind": kind[2].decode(), "metadata": _metadata(dict(content)[1])}
    if data := [dict(_fields(value)) for number, value in content if number == 2 and thing["kind"] == "Secret"]:
        thing["data"] = {pair[1].decode(): base64.b64encode(pair.get(2, b"")).decode() for pair in data}
    if thing["kind"] == "Secret" and 3 in dict(content):
        thing["type"] = dict(content)[3].decode()
    return thing


def _metadata(raw: bytes) -> Thing:
    meta: Thing = {}
    for number, value in _fields(raw):
        if number in _META and value:
            meta[_META[number]] = value.decode()
        elif number in _MAPS:
            pair = dict(_fields(value))
            meta.setdefault(_MAPS[number], {})[pair[1].decode()] = pair.get(2, b"").decode()
    return meta


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every field that has bytes; numbers are passed by."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        size, at = _varint(raw, at)
        if tag & 7 == 2:
            yield tag >> 3, raw[at : at + size]
            at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
