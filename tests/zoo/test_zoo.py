"""Every model of the zoo, in every mode: right, or refused for a reason that plain torch shares."""

import pytest

from tests.zoo.blocks import BLOCKS
from tests.zoo.examine import examine
from tests.zoo.guests import GUESTS
from tests.zoo.senses import SENSES
from tests.zoo.text import TEXT
from tests.zoo.verdict import ABSENT, cause, is_wrong, mode

SPECIMENS = {specimen.name: specimen for specimen in (*TEXT, *SENSES, *BLOCKS, *GUESTS)}


def test_the_names_are_unique_and_the_zoo_is_large():
    rows = (*TEXT, *SENSES, *BLOCKS, *GUESTS)
    assert len(SPECIMENS) == len(rows)
    assert len(TEXT) + len(SENSES) >= 100


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")  # of other people's models
@pytest.mark.parametrize("name", SPECIMENS)
def test_the_model_is_served_right_or_refused_rightly(name, zoo_modes, record_property):
    rows = list(examine(SPECIMENS[name], zoo_modes))
    for row in rows:
        record_property("zoo", row)
    if all(row["verdict"] == ABSENT for row in rows):
        pytest.skip(rows[0]["said"])
    wrong = [f"{mode(row)}: {row['verdict']}, {cause(row)}" for row in rows if is_wrong(row)]
    if wrong:
        pytest.fail("\n".join([*wrong, rows[-1].get("said", "")]), pytrace=False)
