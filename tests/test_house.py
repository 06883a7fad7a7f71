"""The budgets of the house: short functions, short files, rooms that say what lives in them."""

import ast
from pathlib import Path

from tests import house

LONGEST_FUNCTION, MOST_FUNCTIONS, LONGEST_MODULE = 50, 30, 300
HOUSE = house.files()
ROOMS = sorted(path.parent for path in (house.SOURCE / "hesscope").glob("*/__init__.py"))


def test_no_function_is_long_and_nine_of_ten_are_short():
    sizes = [item for file in HOUSE for item in file.functions()]
    assert len(sizes) > 1000
    assert [(name, size) for name, size in sizes if size > LONGEST_FUNCTION] == []
    assert house.quantile([size for _, size in sizes], 0.9) <= MOST_FUNCTIONS


def test_no_module_is_long():
    long = {file.path: file.code_lines for file in HOUSE if file.code_lines > LONGEST_MODULE}
    assert long == {}


def test_inner_and_async_functions_count_and_no_name_hides_another():
    text = 'class A:\n    def f(self):\n        """Say.\n\n        More."""\n        # why\n'
    text += (
        "        async def g():\n            return 1\n\n        return g\n\ndef f():\n    ...\n"
    )
    sizes = list(house.File("room/file.py", text).functions())
    assert sizes == [("room/file.py:A.f", 4), ("room/file.py:A.f.g", 2), ("room/file.py:f", 2)]


def test_every_room_says_what_lives_in_it():
    assert len(ROOMS) > 15
    for room in ROOMS:
        text = (room / "__init__.py").read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), room


def test_every_room_has_its_tests():
    tests = Path(__file__).parent
    assert [room.name for room in ROOMS if not list((tests / room.name).glob("test_*.py"))] == []
