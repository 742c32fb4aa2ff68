"""The benchmark of fine-tuning, on a tiny encoder and sizes that take no time."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import finetune
from skpref._torch._batches import SessionBatches, SessionDataset
from skpref._torch._losses import PreferenceLoss
from skpref._torch._transformer import TransformerScorer


@pytest.mark.slow
def test_quick_run_writes_the_table_and_resumes(tiny_model, tmp_path, monkeypatch, capsys):
    arguments = ["--quick", "--model", tiny_model, "--out", str(tmp_path)]
    result = finetune.main(arguments)
    assert json.loads((tmp_path / "finetune.json").read_text()) == result
    rivals = [name for name in finetune.RIVALS if name not in result["left out"]]
    assert set(rivals) >= {"pairs", "pointwise", "explicit pairs"}
    assert list(result["settings"]) == [f"{device}, 10" for device in finetune.devices()]
    for row in result["settings"].values():
        assert (row["utterances"], row["all pairs"], row["pairs timed"]) == (40, 4 * 45, 16)
        seconds = {name: row[f"{name}, s per epoch"] for name in rivals}
        for name in rivals:
            assert row[f"{name}, utterances/s"] == pytest.approx(40 / seconds[name])
            assert row[f"{name}, MB"] > 0
        for name in rivals[2:]:
            assert seconds[name] == pytest.approx(row[f"{name}, s per pair"] * 180)
            assert row[f"{name} / pairs"] == pytest.approx(seconds[name] / seconds["pairs"])
        assert row["pairs / pointwise"] == pytest.approx(seconds["pairs"] / seconds["pointwise"])

    text = (tmp_path / "finetune.md").read_text()
    headers = [line for line in text.splitlines() if line.startswith("| device")][:3]
    ratios = ["pairs / pointwise", *(f"{name} / pairs" for name in rivals[2:])]
    speeds = [f"{name}, utterances/s" for name in rivals]
    assert headers[0] == f"| {' | '.join(['device', 'session length', *speeds, *ratios])} |"
    assert headers[1].count("s per epoch") == len(rivals)
    assert headers[2].count("MB") == len(rivals)
    for said in ("`python -m benchmarks.finetune`", "cores of", "made up", "repeats: 1"):
        assert said in text
    for said in (text, (tmp_path / "finetune.json").read_text()):
        assert str(Path(tiny_model).parent) not in said
        assert str(tmp_path) not in said

    def measure(*arguments):
        raise AssertionError("a setting that was done is done again")

    monkeypatch.setattr(finetune, "measure", measure)
    assert finetune.main(arguments) == result
    assert "| pairs / pointwise |" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="done again"):
        finetune.main([*arguments, "--fresh"])
    monkeypatch.setattr(finetune, "devices", lambda: ["other"])
    with pytest.raises(AssertionError, match="done again"):
        finetune.main(arguments)


def test_results_of_other_work_do_not_count(tmp_path):
    path = tmp_path / "finetune.json"
    quick = finetune.results_so_far(finetune.parse_args(["--quick"]), path)
    path.write_text(json.dumps(quick | {"settings": {"cpu, 10": {}}}))
    again = finetune.results_so_far(finetune.parse_args(["--quick"]), path)
    assert again["settings"] == {"cpu, 10": {}}
    for other in ([], ["--quick", "--model", "x"], ["--quick", "--data-dir", "x"]):
        assert not finetune.results_so_far(finetune.parse_args(other), path)["settings"]
    stored = json.loads(path.read_text())
    stored["environment"]["CPU"] = "1000 cores"
    path.write_text(json.dumps(stored))
    assert not finetune.results_so_far(finetune.parse_args(["--quick"]), path)["settings"]


@pytest.mark.parametrize("length", [1, 2, 5, 15])
def test_pairs_are_those_of_brute_force(length):
    soft = np.random.RandomState(0).randint(2, size=(30, 3))
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(30), 2)
        if i // length == j // length and soft[i].tolist() != soft[j].tolist()
    ]
    assert [tuple(pair) for pair in finetune.all_pairs(soft, length).tolist()] == expected
    setting = finetune.Setting("cpu", length, 30, 7, "")
    timed = [tuple(pair) for pair in finetune.timed_pairs(setting).tolist()]
    every = finetune.all_pairs(finetune.make_labels(30), length).tolist()
    assert len(every) == 30 * (length - 1) / 2
    assert len(set(timed)) == len(timed) == min(7, len(every))
    assert set(timed) <= {tuple(pair) for pair in every}


def test_both_sides_minimise_the_same_loss():
    soft = finetune.make_labels(12)
    soft[3] = soft[1]
    scores = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dataset = SessionDataset(scores.detach().numpy(), soft, np.ones(12), np.arange(12) // 4)
    [target] = SessionBatches(dataset, 12, session_weight="pairs").targets()
    weights = {"pairwise_weight": 1.0, "pointwise_weight": 0.0, "class_weight": torch.ones(3)}
    ours = PreferenceLoss(**finetune.CRITERION, **weights)(scores, target)
    first, second = finetune.all_pairs(soft, 4).T
    gap = dataset.soft_tensor[first] - dataset.soft_tensor[second]
    theirs = finetune.difference_loss(torch.cat([scores[first], scores[second]]), gap)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_what_each_side_encodes(tiny_model, monkeypatch):
    embed, encoded = TransformerScorer.embed, []

    def count(self, tokens):
        encoded.append(len(tokens))
        return embed(self, tokens)

    monkeypatch.setattr(TransformerScorer, "embed", count)
    setting = finetune.Setting("cpu", 20, 60, 150, tiny_model)
    for rival, expected in (("pairs", 60), ("pointwise", 60), ("explicit pairs", 300)):
        run = finetune.RIVALS[rival](setting)
        encoded.clear()
        run()
        assert sum(encoded) == expected


def test_texts_are_made_up_or_user_turns(tmp_path):
    made = [len(text.split()) for text in finetune.make_texts(5000)]
    assert 10 < np.mean(made) < 13  # and two tokens around
    assert min(made) == 1
    assert 60 < max(made) <= 78
    with pytest.raises(SystemExit, match=r"There is no .*uss\.parquet"):
        finetune.make_texts(5, tmp_path)
    frame = pd.DataFrame({"speaker": ["user", "system"] * 3, "text": list("abcdef")})
    frame.to_parquet(tmp_path / "uss.parquet")
    assert set(finetune.make_texts(50, tmp_path)) == set("ace")


def test_throughput_counts_what_is_computed(tiny_model):
    setting = finetune.Setting("cpu", 10, 40, 16, tiny_model)
    row = finetune.throughput(setting, 2**8, 2.0, 1)
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32
    assert row["TFLOP/s"] == pytest.approx(6 * 2 * layer * row["tokens/s"] / 1e12)
    assert row["share"] == pytest.approx(row["TFLOP/s"] / 2)
    tokens = sum(len(t) for t in finetune.scorer_and_data(setting)[1].X)
    assert row["tokens/s"] / row["utterances/s"] == pytest.approx(tokens / 40)
