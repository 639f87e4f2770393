"""Numbers and verdicts as reports write them."""

from __future__ import annotations

STYLES = {
    "PASS": "green",
    "IMPROVED": "green",
    "INCONCLUSIVE": "yellow",
    "FAIL": "bold red",
    "INVALID": "bold red",
    "NO BASELINE": "bold red",
    "NOT GATED": "yellow",
}


def number(value: float | None) -> str:
    """Four significant digits without an exponent; a dash for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    if not value:
        return "0"
    return f"{value:#.4g}" if abs(value) >= 0.001 else f"{value:.2e}"
