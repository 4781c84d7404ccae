"""Numbers and tables as text."""

from __future__ import annotations

NOTHING = "–"


def percent(value: float | None, decimals: int | None = None) -> str:
    """4.1 % for 0.041, 48 % for 0.48; a dash for None."""
    if value is None:
        return NOTHING
    if decimals is None:
        decimals = 1 if 0 < abs(value) < 0.0995 else 0
    return f"{_minus(100 * value, decimals)} %"


def percent_interval(value: float, low: float, high: float, decimals: int | None = None) -> str:
    """4.1 % [3.2, 5.0]: all three with the decimals that the value needs."""
    if decimals is None:
        decimals = 1 if value < 0.0995 or high - low < 0.02 else 0
    inner = ", ".join(_minus(100 * v, decimals) for v in (low, high))
    return f"{percent(value, decimals)} [{inner}]"


def points(value: float, low: float, high: float) -> str:
    """A difference in percentage points: +43.9 [+40.1, +47.6]."""
    signed = [_minus(100 * v, 1, sign=True) for v in (value, low, high)]
    return f"{signed[0]} [{signed[1]}, {signed[2]}]"


def p_value(value: float) -> str:
    """p = 0.042, p < 0.001."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _minus(value: float, decimals: int, sign: bool = False) -> str:
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """A short number: 0.0123, 1.25, 318, 12,345."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def tokens(value: float | None) -> str:
    """950, 12.3 k, 4.56 M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """8.2 s, 4 min 05 s, 2 h 10 min."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
