from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from build_records import make_record
from matplotlib.figure import Figure
from PIL import Image

from lightning_adv2.report.finish import finish
from lightning_adv2.report.harmless import SAME, draw, harmless
from lightning_adv2.report.run_report import write_report
from report.browser import Parsed
from report.runs import make_run


def picture() -> Figure:
    figure = Figure((2, 2))
    figure.text(0, 0, "drawn")
    return figure


def test_a_figure_is_drawn_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(path, picture) == [path]
    with Image.open(path) as shown:
        assert shown.size == (260, 260)
    assert [one.name for one in path.parent.iterdir()] == ["one.png"]
    assert draw(path, lambda: None) == []
    assert not path.exists(), "where there is nothing to show no earlier figure stays"


def test_what_fails_is_said_and_no_earlier_figure_stays(tmp_path: Path) -> None:
    """A canvas of 2^23 pixels a side is more than there can be."""
    path = tmp_path / "one.png"
    draw(path, picture)
    expected = (
        r"one\.png is not made \(Image size of .* pixels is too large.*\); once the cause is gone, the same command"
    )
    with pytest.warns(UserWarning, match=expected):
        assert draw(path, lambda: Figure((100_000, 1)), SAME) == []
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_figure_that_cannot_be_removed_is_said_to_be_old(tmp_path: Path) -> None:
    """A file that nobody, not even root, may remove: one of /proc."""
    with pytest.warns(UserWarning, match="what lies there is of an earlier run"):
        draw(Path("/proc/self/cmdline"), picture)
    with pytest.warns(UserWarning, match=r"x\\x1b\[2J is not made \(a\\x07 b\)"), harmless("x\x1b[2J"):
        raise ValueError("a\x07\nb")


def test_want_of_memory_costs_the_figure_alone(tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from matplotlib.figure import Figure
from lightning_adv2.report.harmless import draw
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
print(draw(Path({str(tmp_path / "big.png")!r}), lambda: Figure((200, 200))), draw(Path({str(tmp_path / "small.png")!r}),
      lambda: Figure((2, 2))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "big.png is not made" in done.stderr
    assert "emory" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["small.png"]


def test_a_report_without_its_figures_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is data stays loud: a results.json that cannot be written is an error."""
    run = make_run(tmp_path, [make_record(0, ["a", "b"]), make_record(0, ["a", "b"], interpreter="rts", place=1)])
    (tmp_path / "figures").write_text("")
    (tmp_path / "report.html").mkdir()
    with pytest.warns(UserWarning, match="is not made") as said:
        made = write_report(run, {}), finish(run)
    assert made == ([], False)
    told = [str(one.message).split(" is not made")[0] for one in said if one.category is UserWarning]
    names = ("agreement", "cam/gallery", "cam/convergence", "rts/gallery", "rts/convergence", "overview")
    assert told == [*(str(tmp_path / "figures" / f"{name}.png") for name in names), str(tmp_path / "report.html")]
    assert "adv2" in capsys.readouterr().out
    (tmp_path / "report.html").rmdir()
    (tmp_path / "figures").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(write_report(run, {})) == 6
        assert finish(run)
    assert "One image under all interpreters" in Parsed(tmp_path / "report.html").text
    (tmp_path / "results.json").unlink()
    (tmp_path / "results.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_report(run, {})
