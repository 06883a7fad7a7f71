"""The base of all results: data that prints, saves, turns into tables and shows in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hesscope.results import html, tables
from hesscope.results.plain import as_plain
from hesscope.system.contexts import public_methods

if TYPE_CHECKING:
    from pandas import DataFrame

Columns = Mapping[str, Sequence[Any] | Tensor]


@public_methods
class Result:
    """What hesscope returns: a frozen dataclass of numbers, text, tensors and other results.

    Subclasses are known by their names, under which `hs.save` writes and `hs.load` finds them.
    Those that are tables say so by `columns`, those that are worth a picture by `picture`, and
    `quantities` are the single numbers that a page and a notebook show of it.

    >>> from hesscope.results.estimate import Interval
    >>> Interval(0.0, 2.0).to_dict()
    {'low': 0.0, 'high': 2.0, 'level': 1.0}
    """

    kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls) -> None:
        other = Result.kinds.setdefault(cls.__name__, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = (
                f"{cls.__module__}.{cls.__qualname__} has the name of the result "
                f"{other.__module__}.{other.__qualname__}, and saved ones could not be told apart; "
                "give it another name."
            )
            raise TypeError(msg)
        public_methods(cls)
        Result.kinds[cls.__name__] = cls  # a cell that is run again defines its class again

    def columns(self) -> Columns:
        """The columns of the table that this result is, all of one length; empty if it is none."""
        return {}

    def quantities(self) -> dict[str, Any]:
        """The single numbers and texts of this result, under the words that a reader sees."""
        return tables.scalars(self)

    def remarks(self) -> tuple[str, ...]:
        """What is to be said below the numbers: notes, reasons, what is taken for granted."""
        return tuple(getattr(self, "notes", ()))

    def picture(self) -> str:
        """A small figure in SVG for a notebook; empty where a table or text says it better."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data, as in JSON; matrices by their shape, non-finite as text."""
        plain: dict[str, Any] = as_plain(self)
        return plain

    def to_pandas(self) -> DataFrame:
        """The table that this result is as a `pandas.DataFrame`.

        Raises:
            TypeError: if it is no table.
            RuntimeError: if pandas is not installed.
        """
        columns = self.columns()
        if not columns:
            name = type(self).__name__
            article = "an" if name[0] in "AEIOU" else "a"
            msg = f"{article} {name} is no table; its fields are in to_dict()."
            raise TypeError(msg)
        try:
            import pandas as pd  # an optional dependency
        except ImportError as error:
            msg = "to_pandas needs pandas: pip install pandas."
            raise RuntimeError(msg) from error
        return pd.DataFrame({name: html.listed(column) for name, column in columns.items()})

    def _repr_html_(self) -> str:
        """What a notebook shows: the picture, then the tables that a page has, too."""
        shown = [html.table(t.columns, t.caption, t.notes) for t in tables.tables(self, deep=False)]
        return self.picture() + "".join(shown)
