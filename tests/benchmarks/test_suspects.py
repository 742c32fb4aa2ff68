"""Wrong labels that are planted on purpose, and the page about how many are found."""

import numpy as np

from benchmarks import suspects


def test_planted_errors_are_other_classes_of_labelled_rows():
    y = np.where(np.arange(3000) % 3 == 0, -1, np.arange(3000) % 7 % 3)
    wrong = suspects.plant_errors(y, 0.05, np.random.RandomState(0))
    changed = wrong != y
    assert changed.sum() == 100
    assert (y[changed] >= 0).all()
    assert set(wrong[changed]) == {0, 1, 2}
    shifts = np.bincount((wrong[changed] - y[changed]) % 3, minlength=3)
    assert shifts[0] == 0
    assert shifts[1:].min() > 30


def test_page_has_the_means_over_the_seeds():
    line = {"data": "chats", "way": "LLM", "labels": 100, "wrong": 10, "at_most": 0.2}
    rates = [{"precision": 0.1, "found": 0.5}, {"precision": 0.2, "found": 0.7}]
    text = "\n".join(suspects.page([line | {"seed": k} | r for k, r in enumerate(rates)]))
    assert "| chats | LLM | 2 | 100 | 10 | 0.15 ± 0.07 | 0.20 | 0.60 ± 0.14 | 0.10 |" in text
