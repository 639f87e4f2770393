"""Cells of a search's ranked table, for terminal and HTML. Pure."""

from __future__ import annotations

from pytest_llmperf.report.text import number
from pytest_llmperf.search.result import PER_GPU, Ranked, SearchResult


def uses_gpus(result: SearchResult) -> bool:
    """Whether any configuration has a GPU, so that columns about them say something."""
    return any(found.config.gpu_count for found in result.ranked)


def rank(found: Ranked) -> str:
    """`3`, `2 =` where noise does not tell it from the best, a dash where it breaks a limit."""
    return "-" if found.rank is None else f"{found.rank}{' =' if found.tied and found.rank > 1 else ''}"


def remarks(found: Ranked) -> tuple[str, ...]:
    """Limits that are broken and by how much, else why it has failed, else the limit that is nearest."""
    if found.standing != "broken":
        return tuple(filter(None, (found.why or found.closest,)))
    return tuple(check.describe() for check in found.checks if not check.ok)


def per_gpu(found: Ranked, result: SearchResult) -> str:
    """Throughput per GPU at the first load."""
    return number(found.metrics.get(result.loads[0], {}).get(str(PER_GPU)))
