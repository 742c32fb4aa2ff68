import copy
import pickle
from html.parser import HTMLParser

import numpy as np
import pytest

from skpref.datasets import make_dialogues
from skpref.inspection import preference_noise, prompt_agreement
from skpref.inspection._report import Report


@pytest.fixture
def report():
    lines = [["a & <b>", "0.5", "<script>"], ["", "", ""], ["c", "+1.25", "fine"]]
    return Report(["name", "value", "text"], lines, message="Is 1 < 2?", share=0.5)


class Cells(HTMLParser):
    """Text of the cells of a table, and the tags that are open."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.cells = [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_report_prints_message_and_table(report):
    assert str(report).splitlines() == [
        "Is 1 < 2?",
        "",
        "name     value  text",
        "a & <b>    0.5  <script>",
        "",
        "c        +1.25  fine",
    ]
    assert repr(report) == str(report)
    assert max(map(len, str(Report(["n"], [["1"]], message="word " * 50)).splitlines())) <= 88


def test_html_of_a_report_is_escaped_and_closed(report):
    parsed = Cells(report._repr_html_())
    first_line = ["a & <b>", "0.5", "<script>"]
    assert parsed.cells == ["name", "value", "text", *first_line, "c", "+1.25", "fine"]
    assert parsed.open == []
    assert "script" not in parsed.seen
    assert "Is 1 &lt; 2?" in report._repr_html_()


def test_html_of_a_report_takes_its_colours_from_the_page(report):
    style = report._repr_html_().split("</style>")[0]
    assert "#" not in style
    assert "color: inherit" in style


@pytest.mark.parametrize("again", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_report_is_the_same_after_a_pickle(report, again):
    found = again(report)
    assert type(found) is Report
    assert found == report
    assert found.share == found["share"] == 0.5
    assert found._repr_html_() == report._repr_html_()


def test_results_of_inspection_are_reports():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0)
    given = (data.llm_scores, data.y, data.groups)
    for inspect in (preference_noise, prompt_agreement):
        result = inspect(*given, n_bootstrap=5, random_state=0)
        assert isinstance(result, Report)
        assert str(result).endswith(result.summary)
        assert "<table>" in result._repr_html_()
        assert isinstance(result.message, str)
    assert isinstance(result.coverage, np.ndarray)
