import random
import re

import pandas as pd
import pytest

from skpref import DialogueContext
from skpref._turn_order import rank_strings


@pytest.mark.parametrize(
    "turns",
    [
        ["1", "2", "10", "11"],
        ["-1", "0", "1.5", "20"],
        ["100000000000000001", "100000000000000002"],
        ["9:58", "9:59", "10:02", "10:03"],
        ["0:59:58", "1:00:01", "10:00:00"],
        ["00:00:01.5", "00:00:01.75"],
        ["11:58 AM", "11:59 AM", "12:01 PM", "01:02 PM", "01:03 pm"],
        ["12:30 a.m.", "1:00 a.m.", "12:10 p.m."],
        ["30.12.2024", "31.12.2024", "01.01.2025", "02.01.2025"],
        ["31.12.2024 9:59", "31.12.2024 10:00", "01.01.2025 00:00"],
        ["12/30/2024", "12/31/2024", "01/01/2025"],
        ["30/12/24", "31/12/24", "01/01/25"],
        ["2024-1-9", "2024-1-10"],
        ["2024-01-01T09:00", "2024-01-01T10:00"],
        ["2024-01-01T10:30+02:00", "2024-01-01T09:00+00:00"],
        ["Dec 30, 2024", "Jan 1, 2025"],
        ["30 Dec 2024 10:00", "01 Jan 2025 09:00"],
        ["a", "b", "c"],
        ["t02", "t10"],
    ],
)
def test_strings_are_ordered_as_what_they_are(turns):
    assert rank_strings(turns, "turn").tolist() == list(range(len(turns)))
    rows = list(range(len(turns)))
    random.Random(0).shuffle(rows)
    assert rank_strings([turns[i] for i in rows], "turn").tolist() == rows


def test_two_spellings_of_a_number_are_the_same_turn():
    assert rank_strings(["1", "1.0", "01", "2"], "turn").tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (["01/02/2024", "02/01/2024"], "may be the day or the month"),
        (["9:58 AM", "10:02"], "some with AM or PM and some without"),
        (["59:59", "1:00:00"], "some of which have seconds"),
        (["13:00 PM", "1:00 PM"], "hours that AM and PM do not have"),
        (["2024-01-01T10:00Z", "2024-01-01T09:00"], "some with a time zone"),
        (["t2", "t10"], "whose numbers text puts in another order"),
        (["41.13.2024", "01.01.2025"], "look like dates and are none"),
        (["Dec 30 at noon", "Jan 1 at noon"], "look like dates"),
    ],
)
def test_strings_without_a_sure_order_are_refused_with_the_column_and_a_remedy(turns, why):
    with pytest.raises(ValueError, match=re.escape(why)) as raised:
        rank_strings(turns, "when")
    assert "turn='when' holds strings such as" in str(raised.value)
    assert "convert the column to numbers or datetimes" in str(raised.value)


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_no_later_turn_is_context(dtype):
    turns = pd.Series(["1", "2", "10", "11"], dtype=dtype)
    X = pd.DataFrame({"session_id": "a", "turn": turns, "text": list("abcd")})
    out = DialogueContext(1, separator="<").fit_transform(X)
    assert out.tolist() == ["a", "b<a", "c<b", "d<c"]
