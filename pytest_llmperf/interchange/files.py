"""Reads other tools' result files from disk; what they mean is the readers' part."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_llmperf.boundary.files import read_file
from pytest_llmperf.interchange.readers.detect import parse_import
from pytest_llmperf.interchange.readers.perf_analyzer import Count
from pytest_llmperf.interchange.readers.rows import requests_rows
from pytest_llmperf.interchange.readers.shared.fields import ImportFileError
from pytest_llmperf.interchange.readers.shared.imported import Imported
from pytest_llmperf.interchange.results import imported_environment, imported_results
from pytest_llmperf.load.trace.tokenizer import load_tokenizer
from pytest_llmperf.metrics.result import Result

_MOST_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file, and a result per load of it."""

    path: Path
    name: str
    """Tells it apart from the others; stands for a server's name."""
    found: Imported
    results: tuple[Result, ...]


def read_files(
    paths: Sequence[Path],
    *,
    concurrency: int | None = None,
    request_rate: float | None = None,
    tokenizer: str | None = None,
    environment: str = "imported",
) -> list[ImportedFile]:
    """Every file with its results. ImportFileError says which is of no known tool, is damaged, or names no load.

    `concurrency` or `request_rate` (req/s) is the load of files that do not name theirs. `tokenizer` (a folder) counts
    answers of perf_analyzer; `environment` names the machine in reports.
    """
    count = load_tokenizer(tokenizer).count if tokenizer else None
    load: dict[str, Any] = {"concurrency": concurrency, "request_rate": request_rate}
    where = imported_environment(environment)
    found = [_parse(path, count) for path in paths]
    # A load that the file names itself stays.
    found = [
        replace(one, points=tuple(point if point.names_load else replace(point, **load) for point in one.points))
        for one in found
    ]
    return [
        ImportedFile(path, name, one, imported_results(one, name, where))
        for path, name, one in zip(paths, _names(paths), found, strict=True)
    ]


def shown_path(file: ImportedFile) -> str:
    """`night1/profile.json`: its folder and its name."""
    return f"{file.path.absolute().parent.name}/{file.path.name}"


def _parse(path: Path, count: Count | None) -> Imported:
    if path.suffix == ".parquet":
        return requests_rows(_parquet_rows(path), str(path))
    beside = path.with_name("profile_export_aiperf.json")
    summary = _text(beside) if path.suffix == ".jsonl" and beside.exists() else None
    return parse_import(_text(path), str(path), beside=summary, count=count)


def _text(path: Path) -> str:
    try:
        data = read_file(path, _MOST_BYTES)
    except OSError as error:
        raise ImportFileError(f"{path} cannot be read: {error.strerror}") from error
    if data.startswith(b"\x1f\x8b"):
        raise ImportFileError(f"{path} is compressed with gzip; unpack it first")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportFileError(f"{path} is no UTF-8 text: {error}") from error
    if "\0" in text:
        raise ImportFileError(f"{path} is no text: it holds bytes of 0")
    return text


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet

        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(read_file(path, _MOST_BYTES))).to_pylist()
    except ImportError as error:
        raise ImportFileError(f"{path}: {error}; pip install 'pytest-llmperf[report]'") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise ImportFileError(f"{path} is no Parquet file: {error}") from error
    return rows


def _names(paths: Sequence[Path]) -> list[str]:
    """Names that tell the files apart: those of the files, else of their folders, else their numbers."""
    absolute = [path.absolute() for path in paths]
    for names in ([path.stem for path in paths], [path.parent.name for path in absolute]):
        if len({*names}) == len(names) and all(names):
            return names
    return [f"{path.stem}-{place}" for place, path in enumerate(paths, start=1)]
