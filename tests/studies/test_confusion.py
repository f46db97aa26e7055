from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab import attack_data, idls, run_python, shapes, trainer, victim
from matplotlib import pyplot as plt
from matplotlib.text import Text

from lightning_adv2.data import ShapesDataModule
from lightning_adv2.modules import ClassifierModule
from lightning_adv2.report.confusion import confusion_content, confusion_figure, print_confusion
from lightning_adv2.report.confusion.content import largest_confusions, worst_classes
from lightning_adv2.report.figures import save
from lightning_adv2.report.findings import Findings, read_findings, write_findings
from lightning_adv2.studies import ConfusionMatrix

SCRIPT = Path(__file__).with_name("confusion_processes.py")


def found(folder: Path) -> Findings:
    study = read_findings(folder, "confusion")
    assert study is not None
    return study.findings


def matrix_of(findings: Findings) -> list[list[int]]:
    matrix = np.zeros((len(findings.rows),) * 2, int)
    for one in findings.details["cells"]:
        matrix[one["true_class"], one["predicted_class"]] = one["images"]
    return matrix.tolist()


def column(findings: Findings, key: str) -> list[Any]:
    return [row[key] for row in findings.rows]


def unseen(**kwargs: Any) -> ShapesDataModule:
    """Other shapes than the victim has learnt by heart, of some classes more than of others."""
    return shapes(seed=1, num_test=39, batch_size=4, **kwargs)


def predicted() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """True and predicted class of every test image, one at a time."""
    images = unseen().dataset("test")
    with torch.no_grad():
        guess = [int(victim()(images[i]["images"][None]).argmax()) for i in range(len(images))]
    return np.array([images.label(i) for i in range(len(images))]), np.array(guess)


@pytest.mark.parametrize("kind", ["classifier", "idls"])
def test_files_and_figures_against_scikit_learn(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = pytest.importorskip("sklearn.metrics")
    module = ClassifierModule(victim()) if kind == "classifier" else idls("cam", "grad")
    (logged,) = trainer(tmp_path, ConfusionMatrix()).test(module, unseen(), verbose=False)
    label, guess = predicted()
    content = found(tmp_path)
    assert matrix_of(content) == oracle.confusion_matrix(label, guess).tolist()
    assert 0 < np.trace(matrix_of(content)) < 39, "all right or all wrong shows nothing"
    balanced = oracle.balanced_accuracy_score(label, guess)
    assert content.settings["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert logged["test/benign/balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)
    assert content.settings["accuracy"] == pytest.approx(oracle.accuracy_score(label, guess), abs=1e-12)
    np.testing.assert_allclose(column(content, "recall"), oracle.recall_score(label, guess, average=None), atol=1e-12)
    precision = [np.nan if value is None else value for value in column(content, "precision")]
    expected = oracle.precision_score(label, guess, average=None, zero_division=np.nan)
    np.testing.assert_allclose(precision, expected, atol=1e-12)
    assert column(content, "class") == list(shapes().class_titles)
    assert (content.settings["stage"], content.settings["images"]) == ("test", 39)
    assert column(content, "images") == np.bincount(label, minlength=7).tolist()
    if kind == "classifier":
        assert logged["test/balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)
        assert logged["test/accuracy"] == pytest.approx(content.settings["accuracy"], abs=1e-6)
    printed = capsys.readouterr().out
    assert f"balanced {balanced:.1%}" in printed
    assert all(title in printed for title in column(content, "class"))
    assert plt.imread(tmp_path / "figures" / "confusion.png").shape[0] > 600


def test_cells_hold_the_counts_and_rows_their_shares() -> None:
    counts = torch.tensor([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    content = confusion_content(counts, ["a", "b", "c"], "val")
    assert content.settings["accuracy"] == 11 / 14
    assert content.settings["balanced_accuracy"] == (0.8 + 0.75) / 2
    assert (column(content, "recall"), column(content, "precision")) == ([0.8, 0.75, None], [8 / 9, 0.6, None])
    axis = confusion_figure(content).axes[0]
    assert [text.get_text() for text in axis.texts] == ["8", "2", "0", "1", "3", "0", "0", "0", "0"]
    shown = np.asarray(axis.images[0].get_array())
    np.testing.assert_allclose(shown, [[0.8, 0.2, 0], [0.25, 0.75, 0], [0, 0, 0]], atol=1e-6)
    assert axis.get_ylabel() == "true class"
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("count", [30, 31, 60, 61, 1000, 10_000])
def test_any_number_of_classes_on_a_page_of_the_same_size(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of class 3 is taken for the class before the last; all else is right. No matrix of all classes is held."""
    label = torch.arange(count).repeat_interleave(2)
    predicted = label.clone()
    predicted[7] = count - 2
    cells = torch.stack([label, predicted])
    counts = torch.sparse_coo_tensor(cells, torch.ones_like(label), (count, count), check_invariants=True)
    content = confusion_content(counts, [f"class {i}" for i in range(count)], "test")
    assert (content.settings["images"], content.settings["accuracy"]) == (2 * count, 1 - 1 / (2 * count))
    assert (content.rows[3]["recall"], content.rows[count - 2]["precision"]) == (0.5, pytest.approx(2 / 3))
    if count <= 100:
        assert content == confusion_content(counts.to_dense(), column(content, "class"), "test")
    assert largest_confusions(content) == [(3, count - 2, 1, 0.5)]
    assert worst_classes(content)[0] == 3
    write_findings(tmp_path, ConfusionMatrix, content)
    assert (tmp_path / "confusion.json").stat().st_size < 30_000 + 200 * count, "linear in the classes"
    height, width, _ = plt.imread(save(confusion_figure(content), tmp_path / "confusion.png")).shape
    print_confusion(content)
    assert 600 < min(height, width) <= max(height, width) < 3000
    printed = capsys.readouterr().out
    assert re.search(r"class 3 +.* 50.0%", printed)
    assert len(printed.splitlines()) < 45
    shown = "\n".join(text.get_text() for text in confusion_figure(content).findobj(Text))
    assert f"class {count - 2}" in shown, "by name, in the matrix or beside it"


def test_a_class_is_found_again_in_the_blocks() -> None:
    """Of 250 classes in blocks of three, the last block has one."""
    cells = torch.tensor([[0, 100, 249, 249], [0, 101, 249, 0]])
    counts = torch.sparse_coo_tensor(cells, torch.tensor([4, 5, 1, 3]), (250, 250), check_invariants=True)
    axis = confusion_figure(confusion_content(counts, [str(i) for i in range(250)], "val")).axes[0]
    shown = np.ma.filled(axis.images[0].get_array(), 0)
    assert shown.shape == (84, 84)
    assert [(i, j, shown[i, j]) for i, j in zip(*shown.nonzero(), strict=True)] == [
        (0, 0, 1.0), (33, 33, 1.0), (83, 0, 0.75), (83, 83, 0.25)
    ]  # fmt: skip
    assert axis.images[0].get_extent() == [-0.5, 251.5, 251.5, -0.5]
    assert axis.get_ylim() == (249.5, -0.5)


def test_a_split_without_images() -> None:
    content = confusion_content(torch.zeros(40, 40, dtype=torch.int64), [str(i) for i in range(40)], "val")
    assert (content.settings["accuracy"], content.settings["balanced_accuracy"]) == (None, None)
    assert confusion_figure(content).get_suptitle() == "Accuracy -, balanced -, 0 val images, 40 classes"


@pytest.mark.slow
def test_ten_thousand_classes_are_counted_without_their_matrix(tmp_path: Path) -> None:
    """A matrix of 10,000 x 10,000 numbers takes 800 MB: the whole test is done in less, on two processes as well."""
    done = run_python(SCRIPT, tmp_path, 2, "many", folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert found(tmp_path).settings["images"] == 35
    assert max(float(path.read_text()) for path in tmp_path.glob("grown_*")) < 250


def test_the_same_on_two_processes_without_duplicates(tmp_path: Path) -> None:
    done = run_python(SCRIPT, tmp_path / "2", 2, folder=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    run = trainer(tmp_path / "1", ConfusionMatrix())
    run.test(ClassifierModule(victim()), shapes(batch_size=4), verbose=False)
    # 35 images in nine batches: one process has an empty one.
    assert (tmp_path / "1" / "confusion.json").read_bytes() == (tmp_path / "2" / "confusion.json").read_bytes()
    assert found(tmp_path / "2").settings["images"] == 35


def test_idle_during_fit_and_a_warning_for_chosen_images(tmp_path: Path) -> None:
    run = trainer(tmp_path / "fit", ConfusionMatrix(), max_epochs=1, num_sanity_val_steps=1)
    run.fit(ClassifierModule(victim()), shapes())
    assert not list((tmp_path / "fit").rglob("confusion*"))
    with pytest.warns(UserWarning, match="ConfusionMatrix: the data module has chosen images"):
        trainer(tmp_path, ConfusionMatrix()).test(idls("cam"), attack_data(), verbose=False)
    assert found(tmp_path).settings["accuracy"] == 1
