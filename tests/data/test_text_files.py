"""Text and CSV files from every kind of editor mean the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_adv2.data import ImageFolderDataset, ImageNetDataModule, Manifest
from lightning_adv2.data.lesion_labels import read_labels, with_lesions

Write = Callable[..., None]
FORMS = {
    "plain": lambda text: text.encode(),
    "BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "BOM, CRLF, blank lines": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode(),
    "blanks": lambda text: text.replace(",", ", ").replace("\n", " \n").encode(),
}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Callable[[str], bytes]:
    return FORMS[request.param]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "n02\nn01\n"),
        ("l.txt", "n02\tgreat white, shark\nn01\ttench"),
        ("l.txt", "# the classifier's order\n\nn02   goldfish\n  n01 tench n of the 2nd kind\n\n"),
        ("l.csv", 'index,wnid,title\n0,n02,"great white"\n1,n01,tench\n'),
        ("l.CSV", "wnid\nn02\nn01\n"),
    ],
)
def test_a_class_list_is_one_class_a_line(
    tmp_path: Path, write_images: Write, form: Callable[[str], bytes], name: str, text: str
) -> None:
    write_images(tmp_path, {"n01": 1, "n02": 1})
    (tmp_path / name).write_bytes(form(text))
    data = ImageNetDataModule(tmp_path, class_list=tmp_path / name)
    assert data.classes == ("n02", "n01")
    assert [data.dataset("val").label(i) for i in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.txt", "n01\nn02 n03\n", r"line 2: 'n02 n03' does not give one WordNet id"),
        ("l.txt", "tench n01\n", r"line 1: 'tench n01' does not give one WordNet id"),
        ("l.csv", "wnid,title\nn01,tench\n,goldfish\n", r"line 3: '' does not give one WordNet id"),
        ("l.csv", "wnid;title\nn01;tench\n", r"no column wnid; it has wnid;title"),
        ("l.csv", "wnid,wnid\nn01,n02\n", r"has the column wnid twice"),
    ],
)
def test_a_line_without_one_class_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        ImageNetDataModule(tmp_path, class_list=tmp_path / name)


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("n01\nn02\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"class_list=.*l\.txt' is no UTF-8 text .*save it as UTF-8"):
        ImageNetDataModule(tmp_path, class_list=tmp_path / "l.txt")


def test_boxes(tmp_path: Path, write_images: Write, form: Callable[[str], bytes]) -> None:
    write_images(tmp_path, {"cat": 1})
    (tmp_path / "b.csv").write_bytes(form("file,xmin,ymin,xmax,ymax\nval/cat/0.png,1,1,5,5\n"))
    assert ImageFolderDataset(tmp_path, "val", boxes=tmp_path / "b.csv")[0]["mask"].sum() == 16


def test_lesions(tmp_path: Path, form: Callable[[str], bytes]) -> None:
    (tmp_path / "l.csv").write_bytes(form("image_id,dx\nISIC_1,mel\nISIC_2,nv\n"))
    (tmp_path / "g.csv").write_bytes(form("image,lesion_id\nISIC_1,HAM_1\nISIC_2,HAM_2\n"))
    rows = with_lesions(read_labels(tmp_path / "l.csv"), tmp_path / "g.csv")
    assert [(row.image_id, row.label, row.lesion_id) for row in rows] == [
        ("ISIC_1", 0, "HAM_1"),
        ("ISIC_2", 1, "HAM_2"),
    ]


def test_a_manifest_that_an_editor_saved_again(tmp_path: Path) -> None:
    manifest = Manifest("x", "val", 0, 7, (), 0)
    (tmp_path / "m.json").write_bytes(b"\xef\xbb\xbf" + manifest.to_json().replace("\n", "\r\n").encode())
    assert Manifest.load(tmp_path / "m.json") == manifest
