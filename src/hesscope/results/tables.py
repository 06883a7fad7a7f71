"""Any result as tables of cells: what a page and a notebook show, and what is copied as CSV."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hesscope.results.words import NOT_KNOWN, called, kind_of, listed

if TYPE_CHECKING:
    from hesscope.results.result import Columns, Result

DEEPEST = 3  # results inside of results inside of a result
ELSEWHERE = ("facts", "notes", "reasons", "assumptions")  # fields that are told below the numbers
TOLD = ("certificate",)  # results inside that are one sentence among the numbers


@dataclass(frozen=True)
class Table:
    """Columns of one length under a caption, and what is to be said below them."""

    caption: str
    columns: Columns
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What is read, and the value by which it is sorted and copied: a number where it is one."""

    text: str
    value: float | str

    @property
    def is_number(self) -> bool:
        """Whether it belongs on the right."""
        return not isinstance(self.value, str)


def cell(value: Any) -> Cell:
    """A value as it is read.

    >>> from hesscope.results.estimate import Estimate, Interval
    >>> [cell(v).text for v in (1234567, 0.123456789, float("nan"), True, Interval(1.0, 2.5, 0.95))]
    ['1,234,567', '0.12346', '–', 'yes', '1 to 2.5 (95 %)']
    >>> cell(Estimate(15.244, 0.1)).text, cell(Interval(3.0, 3.0)).text
    ('15.24 ± 1.0e-01', '3')
    """
    from hesscope.results.estimate import Estimate, Interval, plus_minus

    if value is None:
        return Cell(NOT_KNOWN, math.nan)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "yes" if value else "no")
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    if isinstance(value, float):
        return Cell(_number(value), value)
    if isinstance(value, Estimate):
        error = value.stderr + max(value.below, value.above)
        return Cell(plus_minus(value.value, error), value.value)
    if isinstance(value, Interval):
        return Cell(_interval(value.low, value.high, value.level), (value.low + value.high) / 2)
    return Cell(str(value), str(value))


def tables(result: Any, caption: str = "", *, deep: bool = True) -> list[Table]:
    """What a result says of itself: its single numbers, then its rows, then the results inside it.

    Args:
        result: of any kind; a tuple of results is a row for each, a mapping an entry for each.
        caption: what it is called; the name of its kind if not given.
        deep: whether the results inside it are shown, too.
    """
    if isinstance(result, Mapping):
        return [Table(caption, _entries(result))] if result else []
    if isinstance(result, (tuple, list)):
        rows = [one.quantities() if _is_inner(one) else {"value": one} for one in result]
        return [Table(caption, _beside(rows))] if rows else []
    if is_cell(result) and not hasattr(result, "quantities"):
        return [Table(caption, columns_of({caption: result}))]
    return list(_tables(result, caption or kind_of(type(result)), DEEPEST if deep else 0))


def columns_of(rows: Mapping[str, Any]) -> Columns:
    """Names and values as two columns."""
    return {"quantity": list(rows), "value": list(rows.values())}


def scalars(result: Any) -> dict[str, Any]:
    """The fields of a dataclass that are one cell each, under the words of a reader.

    >>> from hesscope.results.spectrum import Certificate
    >>> list(scalars(Certificate(0.0, 1.0, 0.1, True, False, 1e-3, "all")))[:5]
    ['lower', 'upper', 'window', 'complete', 'copies']
    """
    return dict(_scalars(result))


def _tables(result: Result, caption: str, deep: int) -> Iterator[Table]:
    rows, columns, notes = result.quantities(), result.columns(), result.remarks()
    if rows:
        yield Table(f"{caption}, in short" if columns else caption, columns_of(rows), notes)
    if columns:
        yield Table(caption, columns, () if rows else notes)
    if not (rows or columns):
        yield Table(caption, columns_of({"contents": "nothing"}), notes)
    if not deep:
        return
    for name, part in _parts(result):
        inside = f"{caption}: {called(name)}"
        if isinstance(part, tuple):
            yield Table(inside, _beside([one.quantities() for one in part]))
        else:
            yield from _tables(part, inside, deep - 1)


def _scalars(result: Any) -> Iterator[tuple[str, Any]]:
    rows = _num_rows(result)
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        in_rows = rows and isinstance(value, (Tensor, tuple)) and _length(value) == rows
        if field.name in ELSEWHERE or in_rows or value is None or _is_empty(value):
            continue
        if field.name == "seed":
            yield "seed", str(value)
        elif is_cell(value):
            yield called(field.name), value
        elif field.name == "certificate":
            yield "certificate", value.statement
        elif isinstance(value, Tensor):
            yield called(field.name), _tensor(value)
        elif isinstance(value, Mapping):
            yield from ((f"{called(field.name)}: {key}", v) for key, v in value.items() if _is(v))
        elif isinstance(value, (tuple, list)) and all(map(_is, value)):
            yield called(field.name), listed([cell(v).text for v in value]) or "none"


def is_cell(value: Any) -> bool:
    """Whether a value is one cell of a table; None is none."""
    from hesscope.results.estimate import Estimate, Interval

    return isinstance(value, (bool, int, float, str, Estimate, Interval))


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _is(value: Any) -> bool:
    return value is None or is_cell(value)


def _parts(result: Any) -> Iterator[tuple[str, Any]]:
    """The results inside a result, and its tuples of results of one kind that are not its rows."""
    rows = _num_rows(result)
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        inside = value.items() if isinstance(value, Mapping) else [(field.name, value)]
        for name, part in inside:
            several = part if isinstance(part, tuple) else ()
            listed_here = several and len(several) != rows and all(map(_is_inner, several))
            if name not in TOLD and (_is_inner(part) or listed_here):
                yield str(name), part


def _is_inner(value: Any) -> bool:
    from hesscope.results.result import Result

    return isinstance(value, Result) and not is_cell(value)


def _num_rows(result: Result) -> int:
    return max((len(column) for column in result.columns().values()), default=0)


def _length(value: Tensor | tuple[Any, ...]) -> int:
    return len(value) if isinstance(value, tuple) or value.ndim else 0


def _entries(result: Mapping[str, Any]) -> Columns:
    """A row for each entry: its name, and its values side by side."""
    several = [list(v) if isinstance(v, (tuple, list)) else [v] for v in result.values()]
    widest = max(map(len, several))
    names = ["value"] if widest == 1 else [f"value {i + 1}" for i in range(widest)]
    padded = [values + [None] * (widest - len(values)) for values in several]
    columns = {name: [values[i] for values in padded] for i, name in enumerate(names)}
    return {"name": list(map(str, result)), **columns}


def _beside(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Rows with the same or different names as columns; what a row does not know is not known."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _tensor(values: Tensor) -> str:
    """How many numbers, and between which.

    >>> import torch
    >>> _tensor(torch.tensor([[1.0, 3.0]])), _tensor(torch.zeros(0)), _tensor(torch.tensor(2.5))
    ('1 x 2 numbers from 1 to 3', 'none', '2.5')
    """
    if not values.numel():
        return "none"
    if values.ndim == 0:
        return _number(float(values.detach()))
    shape = " x ".join(f"{size:,}" for size in values.shape)
    known = values.detach().double()
    known = known[known.isfinite()]
    if not len(known):
        return f"{shape} numbers, none finite"
    return f"{shape} numbers from {_number(float(known.min()))} to {_number(float(known.max()))}"


def _number(value: float) -> str:
    if math.isnan(value):
        return NOT_KNOWN
    if value == 0:
        return "0"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.5g}"


def _interval(low: float, high: float, level: float) -> str:
    if low == high or (math.isnan(low) and math.isnan(high)):
        return _number(low)
    close = math.isfinite(low) and abs(high - low) <= 1e-4 * abs(high) < math.inf
    ends = (f"{low:.8g}", f"{high:.8g}") if close else (_number(low), _number(high))
    return " to ".join(ends) + ("" if level == 1.0 else f" ({100 * level:g} %)")
