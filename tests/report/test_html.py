from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from build_records import make_record
from PIL import Image

from lightning_adv2.report import figures
from lightning_adv2.report.html.pictures import Pictures
from lightning_adv2.report.html.writing import write_page
from lightning_adv2.report.page import Gallery, Listing, Picture, Section
from lightning_adv2.report.run_figures import bars
from lightning_adv2.report.table import Column, Table, text_table
from report.browser import Parsed, look, needs_browser
from report.runs import make_run

HOSTILE = "<script>window.hacked = 1</script>"
QUOTES = "\"'><img src=x onerror=window.hacked=2>.png"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything at once, with names that nobody should trust."""
    tmp_path = tmp_path_factory.mktemp("page")
    records = [
        make_record(0, [QUOTES, "b", "c", "d", "e"], interpreter=name, place=place, seed=place)
        for place, name in enumerate(("cam", "rts"))
    ]
    run = make_run(tmp_path / "run", records)
    run.about["classes"] = (HOSTILE, "ring & co", "star")
    picture = figures.save(bars(run.summary.rows), tmp_path / "bars.png")
    wide = text_table("Wide", tuple(f"column {i}" for i in range(60)), [tuple(f"{i}.125" for i in range(60))])
    claims = text_table(
        HOSTILE,
        ("claim", "verdict"),
        [("A", "held"), ("B", "not held"), ("C", "not tested"), (QUOTES, "held, nearly")],
        note=f"a note {HOSTILE}",
    )
    blocks = [wide, claims, Picture(QUOTES, picture), Listing("config", f"a: 1\n{HOSTILE}\n" + "x" * 3000)]
    sections = [
        Section(f"One {QUOTES}", f"first\n\nsecond {HOSTILE}", [*blocks]),
        Section("Gallery", blocks=[Gallery("All", run)]),
    ]
    return write_page(tmp_path / "page.html", f"A title {HOSTILE}", sections, lead="a lead")


def test_all_that_is_said_can_be_read_and_nothing_of_it_is_markup(page: Path) -> None:
    parsed = Parsed(page)
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "iframe", "object", "link", "base")]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert [f"{i}.125" for i in range(60)] in parsed.rows
    assert [QUOTES, "held, nearly"] in parsed.rows
    assert parsed.text.count(HOSTILE) > 5, "shown as text: title, note, listing, class names"
    assert QUOTES in parsed.text


def test_it_needs_no_other_file_and_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert all(uri.startswith("data:image/") for uri in re.findall(r"url\(([^)]*)\)", text))
    for tag, attributes in Parsed(page).tags:
        assert (attributes.get("src") or "data:").startswith("data:"), tag
        assert (attributes.get("href") or "#").startswith("#"), tag
    assert "default-src 'none'" in text, "should one of these fail, the browser still fetches and runs nothing"


def test_contents_lead_to_sections(page: Path) -> None:
    tags = Parsed(page).tags
    targets = {attributes["href"] for _, attributes in tags if "href" in attributes}
    assert targets == {f"#{attributes['id']}" for tag, attributes in tags if tag == "section"}
    assert len(targets) == 2


def test_badges_are_for_verdicts_alone(page: Path) -> None:
    badges = re.findall(r'<span class="badge (\w+)">([^<]*)</span>', page.read_text(encoding="utf-8"))
    assert badges == [("good", "held"), ("bad", "not held"), ("open", "not tested")]


def test_numbers_are_aligned_right(tmp_path: Path) -> None:
    columns = [Column("name"), Column("value", format=".2f"), Column("text", "finished", "s")]
    table = Table("t", columns, [{"name": "1", "value": 0.5, "text": "0.97 [0.95, 0.98]"}])
    text = write_page(tmp_path / "page.html", "t", [Section("s", blocks=[table])]).read_text(encoding="utf-8")
    assert '<th scope="col">name</th><th scope="col" class="n">value</th>' in text
    assert '<td class="k">1</td><td class="n">0.50</td><td class="n">0.97 [0.95, 0.98]</td>' in text


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(tmp_path / "page.html", "old", [])
    broken = Table("t", [Column("n", format=".2f")], [{"n": object()}])
    with pytest.raises(TypeError, match="unsupported format"):
        write_page(path, "new", [Section("s", blocks=[broken])])
    assert "old" in path.read_text(encoding="utf-8")
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_a_figure_or_a_gallery_that_fails_costs_only_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [make_record(0, ["a", "b"])])
    (record,) = (tmp_path / "run" / "records" / "cam").iterdir()
    record.write_bytes(record.read_bytes()[:-1])
    blocks = [Picture("gone", tmp_path / "gone.png"), Gallery("All", run), text_table("t", ("a",), [("kept",)])]
    with pytest.warns(UserWarning, match="is not made") as said:
        page = write_page(tmp_path / "page.html", "title", [Section("s", blocks=[*blocks])])
    told = [str(one.message) for one in said]
    assert f"{tmp_path / 'gone.png'} on the page is not made (No such file or directory)" in told[0]
    assert str(record) in told[1]
    parsed = Parsed(page)
    assert ["kept"] in parsed.rows
    assert all(line in parsed.text for line in told), "what is missing is said in its place"


def test_pictures_are_exact_and_there_once() -> None:
    pictures, generator = Pictures(), np.random.default_rng(0)
    small = generator.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    other = generator.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    large = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None, None], (224, 224, 3)).copy()
    assert [pictures.add(one, exact=True) for one in (small, other, small.copy(), large)] == [0, 1, 0, 2]
    shown = []
    for number, rule in enumerate(pictures.rules):
        found = re.fullmatch(r"\.p(\d+)\{background-image:url\(data:image/webp;base64,([^)]*)\)\}", rule)
        assert found is not None
        assert int(found[1]) == number
        with Image.open(BytesIO(base64.b64decode(found[2]))) as picture:
            shown.append(np.asarray(picture.convert("RGB")))
    assert np.array_equal(shown[0], small)
    assert np.array_equal(shown[1], other)
    assert np.abs(shown[2].astype(int) - large).mean() < 4
    assert pictures.size == sum(
        len(rule) - len(f".p{i}{{background-image:url()}}") for i, rule in enumerate(pictures.rules)
    )


def test_gallery_has_each_number_of_each_image(tmp_path: Path) -> None:
    records = [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])]
    run = make_run(tmp_path, records)
    rows = Parsed(write_page(tmp_path / "p.html", "t", [Section("g", blocks=[Gallery("g", run)])])).rows
    for image in run.summary.images:
        key = image["attack"] if image["schedule"] == "control" else f"{image['attack']}-{image['schedule']}"
        expected = [
            ("disk", "ring", "star")[image["adv_predicted"]],
            "yes" if image["success"] else "no",
            *(f"{image[k]:.3f}" for k in ("confidence", "iou", "l1", "l2")),
            *(f"{image[f'{k}_{which}_class']:.3f}" for which in ("true", "target") for k in ("iou", "l1")),
        ]
        assert any(row[0] == key and row[6:16] == expected for row in rows), (image["image_id"], key, expected)


def test_gallery_stops_at_its_limit(tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_record(0, ["a", "b", "c"]), make_record(1, ["d"])])
    text = Parsed(write_page(tmp_path / "p.html", "t", [Section("g", blocks=[Gallery("g", run, limit=2)])])).text
    assert "The first 2 of 4 attacked images" in text


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(page: Path, width: int, tmp_path: Path) -> None:
    found = look(page, width, tmp_path / "browser")
    assert width - 20 <= found["room"] <= width  # less the scroll bar
    assert found["width"] <= found["room"], "the page scrolls sideways; only tables may, in their own box"
    assert found["hacked"] is None
    assert found["broken"] == 0
    assert found["images"] == 1 + found["backgrounds"] > 20
    assert found["bare"] == 0, "a picture of the gallery has no pixels"
    assert not found["requests"]
    assert {"0.125", "59.125", "held", "not held", "not tested", QUOTES} <= set(found["cells"])
    assert HOSTILE in found["text"]
