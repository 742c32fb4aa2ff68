import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skpref._llm._answers import NoLogprobs, read_answer
from skpref._llm._completion import Malformed, read_completion
from tests.llm.stub import completion

NAMES = ["bad", "good"]


def with_tokens(tokens, text="A"):
    """A completion with the probabilities of the likeliest first tokens."""
    return completion(text, {t: math.log(p) if p else -np.inf for t, p in tokens.items()})


def score(tokens, names=NAMES, answers="ABC"):
    return read_answer(with_tokens(tokens), "logprobs", names, list(answers)[: len(names)])


def confide(text, names=NAMES):
    return read_answer(completion(text), "verbalized", names, names)


def label(text, names=NAMES):
    """The class that is read, or why there is none."""
    answer = read_answer(completion(text), "label", names, names)
    if answer.scores is None:
        return answer.reason
    assert sorted(answer.scores) == [0.0] * (len(names) - 1) + [1.0]
    return names[answer.scores.argmax()]


def assert_nothing(answer, reason):
    assert answer.scores is None
    assert reason in answer.reason


@pytest.mark.parametrize("kind", [dict, json.dumps, lambda body: json.dumps(body).encode()])
def test_completion_is_taken_decoded_or_as_json(kind):
    body = completion("good")
    assert read_completion(kind(body)) == body


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "null", "1", '"choices"', "[]", "{}", "<html>502</html>", b"\xff\xfe\x00", None),
        *({"choices": None}, {"choices": []}, {"choices": {}}),
        *({"choices": [None]}, {"choices": ["good"]}, {"choices": [{"text": "good"}]}),
        json.dumps(completion("good"))[:-3],
    ],
)
def test_what_is_no_completion_is_malformed(body):
    with pytest.raises(Malformed, match=r"^the response is no chat completion$"):
        read_completion(body)


@pytest.mark.parametrize("text", ["", None])
@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_empty_answer_is_malformed(text, logprobs):
    with pytest.raises(Malformed, match=r"^the answer is empty$"):
        read_completion(completion(text, logprobs=logprobs))


@pytest.mark.parametrize("scoring", ["logprobs", "verbalized", "label"])
@pytest.mark.parametrize("text", ["", None, "good", '{"bad": 0, "good": 1}'])
@pytest.mark.parametrize("how", [{"refusal": "I can't."}, {"finish_reason": "content_filter"}])
def test_refusal_is_an_answer_that_gives_no_scores(scoring, text, how):
    for logprobs in (None, with_tokens({"B": 0.9})["choices"][0]["logprobs"]):
        body = read_completion(completion(text, logprobs=logprobs, **how))
        assert_nothing(read_answer(body, scoring, NAMES, ["A", "B"]), "refused")


def test_answer_that_is_no_refusal_is_read():
    for how in ({"refusal": None}, {"refusal": ""}, {"finish_reason": "stop"}):
        assert read_answer(completion("good", **how), "label", NAMES, NAMES).scores[1] == 1


@pytest.mark.parametrize(
    ("tokens", "names", "answers", "expected", "mass"),
    [
        ({"A": 0.6, "B": 0.2, "The": 0.1}, NAMES, "AB", [0.6, 0.2], 0.8),
        ({"A": 0.5, "B": 0.3, "C": 0.1}, ["bad", "good", "so"], "CAB", [0.1, 0.5, 0.3], 0.9),
        ({"2": 0.6, "1": 0.3}, ["a", "b"], "12", [0.3, 0.6], 0.9),
        # Tokens of the same option add up.
        ({"A": 0.4, " A": 0.1, "a": 0.1, "▁b": 0.05, "bad": 0.1}, NAMES, "AB", [0.7, 0.05], 0.75),
        # Names of several words are known by the first.
        ({" not": 0.6, "very": 0.3}, ["not at all", "very much"], "AB", [0.6, 0.3], 0.9),
        ({"good": 0.6, "A": 0.2}, ["good-natured", "good"], "AB", [0.2, 0.6], 0.8),
        # A letter of an option goes before a name.
        ({"b": 0.6, "a": 0.2}, ["b", "x"], "AB", [0.2, 0.6], 0.8),
        # What is not listed has the least probability that is, wherever that stands.
        ({"B": 0.8, "x": 0.05, "I": 0.02}, ["bad", "good", "so"], "ABC", [0.02, 0.8, 0.02], 0.8),
        ({"x": 0.02, "B": 0.8, "A": 0.1}, ["bad", "good", "so"], "ABC", [0.1, 0.8, 0.02], 0.9),
        ({"A": 0.5, "B": 0.0, "x": 0.3}, NAMES, "AB", [0.5, 0.0], 0.5),
        # Or its share of what is left, if that is less.
        ({"B": 0.6, "x": 0.31}, ["a", "b", "c", "d"], "ABCD", [0.03, 0.6, 0.03, 0.03], 0.6),
        # A token that is a name to the letter is not one that differs by case.
        ({"x": 0.2, "X": 0.6}, ["x", "X"], "AB", [0.2, 0.6], 0.8),
        # Rounding does not make more than 1 of all.
        ({"A": 0.7, "B": 0.3000001}, NAMES, "AB", [0.7, 0.3000001], 1.0),
    ],
)
def test_probabilities_of_the_options_are_made_to_sum_to_1(tokens, names, answers, expected, mass):
    answer = score(tokens, names, answers)
    assert answer.scores == pytest.approx(np.array(expected) / sum(expected))
    assert answer.mass == pytest.approx(mass, abs=1e-12)
    assert answer.reason == ""


@pytest.mark.parametrize(
    "token", ["B", "b", " B", "ĠB", "▁▁b", "_B", "B.", " (B)", "**B", '"B"', "B\n", "\n\nB", "B:"]
)
def test_token_is_read_without_space_case_marks_and_punctuation(token):
    assert score({token: 0.6, "A": 0.2}).scores == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("token", ["confused", "Confused", " con", "▁Confus", "CONF", '"conf'])
def test_token_that_begins_one_name_only_counts_for_it(token):
    names = ["calm", "confused", "frustrated"]
    answer = score({token: 0.6, "A": 0.2, "C": 0.1}, names)
    assert answer.scores == pytest.approx([2 / 9, 6 / 9, 1 / 9])


@pytest.mark.parametrize("token", ["very", "ver", "go", "ba", "x", "baddest", "", " ", "...", "AB"])
def test_ambiguous_short_and_other_tokens_count_for_nothing(token):
    answer = score({"A": 0.3, "B": 0.1, token: 0.09}, ["bad, very", "very good", "very bad"])
    assert answer.mass == pytest.approx(0.4)
    assert answer.scores == pytest.approx(np.array([0.3, 0.1, 0.09]) / 0.49)


def test_no_option_among_the_tokens_gives_no_scores_and_tells_the_likeliest():
    for tokens in ({"The": 0.2, "Sure": 0.7, "I": 0.1}, {"Sure": 0.7, "A": 0.0}):
        assert_nothing(score(tokens), "no option among the likeliest tokens, the first 'Sure'")
        assert score(tokens).mass == 0


@pytest.mark.parametrize(
    "logprobs",
    [
        *(None, {}, {"content": None}, {"content": []}, {"content": [{}]}, "A", [], {"tokens": []}),
        *({"content": [{"token": "A"}]}, {"content": [{"token": "A", "logprob": None}]}),
        {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": {"A": -1.0}}]},
    ],
)
def test_answer_without_logprobs_is_told_apart(logprobs):
    with pytest.raises(NoLogprobs):
        read_answer(completion("A", logprobs=logprobs), "logprobs", NAMES, ["A", "B"])


def test_token_that_was_drawn_is_read_where_no_likeliest_are_listed():
    for top in (None, []):
        body = with_tokens({"A": 0.5})
        body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = top
        assert read_answer(body, "logprobs", NAMES, ["A", "B"]).mass == pytest.approx(0.5)


@pytest.mark.parametrize(
    "text",
    [
        *('{"bad": 0.25, "good": 0.75}', '{"bad": 25, "good": 75}', '[{"bad": 0.1, "good": 0.3}]'),
        *('{"bad": "25%", "good": " 75 % "}', '{"bad": "25%", "good": 0.75}'),
        *('{"bad": "0.25", "good": "0.75"}', '{"Bad": 0.25, " GOOD ": 0.75, "other": 9}'),
        *('```json\n{"bad": 0.25,\n "good": 0.75}\n```', 'By {it}: {"bad": 0.25, "good": 0.75}'),
        'Sure! {"good": 0.75, "bad": 0.25} I hope that helps {or not}.',
        '{"why": "{\\"bad\\": 1}", "more": {"bad": 1, "good": 0}, "bad": 0.25, "good": 0.75}',
        # What stands before the last whole object is a draft.
        '{"bad": 1, "good": 0} No: {"bad": 2.5e-1, "good": 0.75} {"bad": 1}',
        '<think>{"bad": 1, "good": 0}</think>{"bad": 0.25, "good": 0.75}',
    ],
)
def test_confidences_are_found_and_made_to_sum_to_1(text):
    answer = confide(text)
    assert answer.scores == pytest.approx([0.25, 0.75])
    assert answer.reason == ""
    assert math.isnan(answer.mass)


def each(values):
    return [f'{{"bad": {value}, "good": 0.5}}' for value in values.split()]


@pytest.mark.parametrize(
    ("reason", "texts"),
    [
        ("0 or more for ['bad'] in", each("-0.1 NaN -Infinity true false null [1] {}")),
        ("0 or more for ['bad'] in", each('"high" "" "%" "-5%" "nan" "0,2" "-inf"')),
        ("0 or more for ['bad'] in", each('Infinity 1e400 "inf" "1e999%" 1e308')),
        ("no JSON object in", ['{"bad": 0.2, "good":', '{"bad": 0.2, "good": 0.8', "{{{", ""]),
        ("no JSON object in", ["{'bad': 0.2}", "{bad: 1}", "[0.2, 0.8]", "good", "I'm sorry."]),
        ("0 or more for ['good'] in", ['{"bad": 1}', '{"bad": 1, "goods": 1}']),
        ("0 or more for ['bad', 'good'] in", ["{}", '{"all": {"bad": 0, "good": 1}}']),
        ("confidences do not add up in", ['{"bad": 0, "good": 0}', '{"bad": "0%", "good": 0.0}']),
    ],
)
def test_text_without_a_confidence_for_each_class_gives_no_scores(reason, texts):
    for text in texts:
        assert_nothing(confide(text), reason)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5).filter(lambda c: sum(c) > 1e-6))
def test_any_confidences_keep_their_proportions(confidences):
    names = [f"{{{i}}} \"ß'" for i in range(len(confidences))]
    text = f"{{Here}}: {json.dumps(dict(zip(names, confidences, strict=True)))}"
    expected = np.array(confidences) / sum(confidences)
    assert confide(text, names).scores == pytest.approx(expected)


@given(st.text(st.sampled_from('{}[]":,.0123456789-% \nabdgo')))
def test_any_text_gives_a_distribution_or_a_reason(text):
    for scoring in ("verbalized", "label"):
        scores, _, reason = read_answer(completion(text), scoring, NAMES, NAMES)
        assert (scores is None) == bool(reason)
        assert reason or (min(scores) >= 0 and sum(scores) == pytest.approx(1))


def test_label_that_alone_is_mentioned_is_read():
    texts = ["good", " Good.\n", "**GOOD**", "`good`", '"good"', "- good", "(good)", "“good”"]
    texts += ["Option: Good", "good good", "It is good, not bade.", "good\n\nThe man is thankful."]
    assert [label(text) for text in texts] == ["good"] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "This is not good.",
            "non-good",
            "Non good",
            "not so good",
            "It isn't good",
            "never good",
        ),
        *("As an AI I can't label this as good.", "I cannot say good", "unable to call it good"),
        *("anything but good", "far from good", "instead of good", "a good-natured man"),
        *(
            "good is wrong",
            "good would not fit",
            "good: no",
            "Good? No.",
            "good: 0%",
            "good isn't it",
        ),
        *("nicht good", "pas good", "no es good", "\u4e0d good", "\u043d\u0435 good"),
        *("It is doubtful that this is good", "neither good", "I refuse to answer good"),
    ],
)
def test_a_name_that_is_denied_or_part_of_a_word_gives_no_score(text):
    assert label(text) == f"an option that is not plainly stated in {text!r}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Good, not bitter.",
            "No anger here. Good.",
            "He is not upset; good",
            "Answer: good, no doubt",
        ),
        *("**good** (not certain)", "<think>bad, not good</think>good", "good\nThis is not easy."),
    ],
)
def test_a_denial_of_something_else_changes_nothing(text):
    assert label(text) == "good"


@pytest.mark.parametrize("text", ["1.5", "0.1", "10", "1/2", "1%", "-1", "$1", "1.0e3", "1:30"])
def test_a_number_within_another_is_no_class(text):
    for said in (text, f"I say {text} here"):
        assert label(said, ["1", "x"]).startswith("no option in")
    for said in ("1", "It is 1.", "1, certainly", "(1)", "Answer: 1\n"):
        assert label(said, ["1", "x"]) == "1"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
@pytest.mark.parametrize("scoring", ["label", "verbalized"])
@pytest.mark.parametrize("text", ["good", '{"bad": 0, "good": 1}', "<think>good", "", None])
def test_an_answer_that_is_cut_off_gives_no_scores_and_says_so(finish, scoring, text):
    answer = read_answer(completion(text, finish_reason=finish), scoring, NAMES, NAMES)
    assert_nothing(answer, f"cut off (finish_reason={finish!r})")
    assert "allow more tokens" in answer.reason


def test_one_token_of_log_probabilities_is_not_cut_off():
    body = with_tokens({"A": 0.6, "B": 0.2})
    body["choices"][0]["finish_reason"] = "length"
    assert read_answer(body, "logprobs", NAMES, ["A", "B"]).scores == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("message", [{}, {"reasoning_content": "good"}, {"reasoning": "good"}])
def test_reasoning_alone_gives_no_scores(message):
    text = None if message else "<think>good</think>"
    answer = read_answer(completion(text, finish_reason="stop", **message), "label", NAMES, NAMES)
    assert_nothing(answer, "only reasoning, no answer")


@pytest.mark.parametrize("k", [3, 10, 26])
def test_options_that_are_not_listed_share_what_is_left(k):
    names = [f"c{i:02d}" for i in range(k)]
    answers = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:k])
    answer = read_answer(with_tokens({"B": 0.6}), "logprobs", names, answers)
    expected = np.full(k, 0.4 / (k - 1))
    expected[1] = 0.6
    assert answer.scores == pytest.approx(expected)
    assert answer.mass == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("name", "word"),
    [("answered", "Answer"), ("answers given", "Answer"), ("theft", "The"), ("basedness", "Based")],
)
def test_the_first_word_of_a_talkative_answer_is_no_class(name, word):
    names = sorted([name, "open"])
    answer = read_answer(with_tokens({word: 0.9, "A": 0.04, "B": 0.06}), "logprobs", names, "AB")
    assert answer.scores == pytest.approx([0.4, 0.6])
    assert answer.mass == pytest.approx(0.1)


def test_probabilities_in_place_of_their_logarithms_are_refused():
    for highest in (0.0015, 0.9, 1):
        body = completion("A", {"A": highest, "B": 0.0})
        answer = read_answer(body, "logprobs", NAMES, ["A", "B"])
        assert_nothing(answer, f"log-probabilities above 0, the highest {highest}")
    # Rounding above 0 is none.
    body = completion("A", {"A": 0.0005, "B": -9.0})
    assert read_answer(body, "logprobs", NAMES, ["A", "B"]).scores.argmax() == 0


@pytest.mark.slow
def test_long_answers_take_no_long_time():
    start = time.process_time()
    for text in ('{"a":"b",' * 55_000, "{" * 300_000, '{"a":' * 900 + "good " * 50_000):
        assert confide(text).scores is None
        label(text)
    assert time.process_time() - start < 5


def test_whole_answer_goes_before_names_in_it():
    names = ["angry", "very angry", "C", "C++"]
    assert [label(name, names) for name in names] == names
    assert label("Very angry.", names) == "very angry"
    # Names are no patterns.
    assert label("It is a.c", ["a.c", "abc"]) == "a.c"
    assert label("It is abc", ["a.c", "abc"]) == "abc"
    assert label("choose (x|y) here", ["(x|y)", "z"]) == "(x|y)"


def test_a_label_that_is_an_object_is_decoded():
    names = ["bar", "caf\u00e9"]
    assert label('{"label": "caf\\u00e9"}', names) == "caf\u00e9"
    assert label('{"label": "bar", "not": "caf\\u00e9"}', names) == "bar"
    assert label('{"label": "bar", "or": "caf\u00e9"}', names).startswith("several options")


def test_a_denial_counts_near_the_name_wherever_that_stands():
    assert "not plainly stated" in label("I would not say good. " + "More words. " * 40)
    assert label("Not a word of it is new, " + "and so on, " * 40 + "so good") == "good"


def test_several_labels_or_none_or_parts_of_words_give_no_scores():
    for text in ("good or bad", "Not good but bad.", "good-bad", "bad\ngood"):
        assert label(text) == f"several options in {text!r}"
    assert label("-1a", ["1a", "2b"]) == "no option in '-1a'"
    for text in ("goodness", "ungood", "good_ness", "badgood", "goo", "", " ", "I'm sorry."):
        assert label(text) == f"no option in {text!r}"


@pytest.mark.parametrize("scoring", ["verbalized", "label"])
def test_reason_shows_the_beginning_of_a_long_answer_or_that_there_is_none(scoring):
    reason = read_answer(completion("x" * 1000), scoring, NAMES, NAMES).reason
    assert 80 <= len(reason) <= 110
    body = read_completion(with_tokens({"A": 0.5}, text=None))
    assert_nothing(read_answer(body, scoring, NAMES, NAMES), "in ''")


@pytest.mark.parametrize(
    ("text", "expected"), [("-1", 0), ("The answer is -1.", 0), ("1", 2), ("It is 0", 1)]
)
def test_signs_belong_to_labels(text, expected):
    answer = read_answer(
        {"choices": [{"message": {"content": text}}]}, "label", ["-1", "0", "1"], []
    )
    assert answer.scores.argmax() == expected


def test_the_longest_label_that_is_named_counts():
    names = ["angry", "very angry"]
    answer = read_answer(
        {"choices": [{"message": {"content": "It is very angry"}}]}, "label", names, []
    )
    assert answer.scores.tolist() == [0, 1]


def test_tokens_that_read_alike_add_up_and_a_lone_one_leaves_the_rest():
    def read(*pairs):
        top = [{"token": token, "logprob": math.log(p)} for token, p in pairs]
        choice = {"message": {}, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}}
        return read_answer({"choices": [choice]}, "logprobs", ["bad", "good"], ["A", "B"])

    assert read(("A", 0.6), ("A", 0.1), ("B", 0.2)).scores == pytest.approx([7 / 9, 2 / 9])
    assert read(("A", 0.9)).scores == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": None}]},
        {"choices": [{"message": "hi"}]},
        {"choices": [{"message": {"content": ["x"]}}]},
        {"choices": [{"message": {"content": ""}, "logprobs": {"content": ["x"]}}]},
        "[" * 100_000,
    ],
    ids=range(5),
)
def test_what_only_looks_like_a_completion_is_malformed(body):
    with pytest.raises(Malformed):
        read_completion(body)


def test_odd_numbers_in_answers_break_nothing():
    top = [{"token": "A", "logprob": float("nan")}, {"token": "B", "logprob": 710}]
    choice = {"message": {}, "logprobs": {"content": [{"top_logprobs": top}]}}
    answer = read_answer({"choices": [choice]}, "logprobs", ["bad", "good"], ["A", "B"])
    assert answer.scores.tolist() == [0, 1]
    for text in ('{"bad": ' + "9" * 400 + ', "good": 1}', '{"a":' * 100_000):
        completion = {"choices": [{"message": {"content": text}}]}
        assert read_answer(completion, "verbalized", ["bad", "good"], []).scores is None
