"""The rules of the observations, judged by the paper's own figures: it must hold by them, and fail without them."""

import math

import pytest

from lightning_adv2.reproduction import published
from lightning_adv2.reproduction.cells import Cell, Measured
from lightning_adv2.reproduction.items import ITEMS
from lightning_adv2.reproduction.observations import HELD, NOT_HELD, NOT_TESTED, OBSERVATIONS, verdicts


def cell(value: float, half: float = 0.01) -> Cell:
    return Cell(value, value - half, value + half, 1000)


def rows(stated, places=None):
    """The paper's figures as if they had been measured here."""
    return [
        Measured(place, {key: cell(value) for key, value in values.items()}, values) for place, values in stated.items()
    ]


def of_paper():
    """What method and text state; where the paper has but a plot or a sentence, a figure that the sentence allows."""
    maps = {
        ("first", name, attack): {"l1": l1, "iou": iou}
        for name, found in {
            "grad": {"pgd": (0.10, 0.3), "adv2": (0.035, 0.55)},
            "cam": {"pgd": (0.2, 0.4), "adv2": (0.05, 0.8)},
            "mask": {"pgd": (0.28, 0.21), "adv2": (0.09, 0.65)},
            "rts": {"pgd": (0.22, 0.29), "adv2": (0.01, 0.93)},
        }.items()
        for attack, (l1, iou) in found.items()
    }
    detection = dict(published.DETECTION.rows)
    for i, squeezer in enumerate(published.SQUEEZERS):
        for name in ("mask", "rts"):
            low, high = published.ADAPTIVE_DETECTION
            detection[squeezer, name, "adaptive"] = {"detection_rate": low + i * (high - low) / 3}
    transfer = {("grad", "cam"): {"l1": 0.19}, ("cam", "grad"): {"l1": 0.09}, ("grad", "grad"): {"l1": 0.035},
                ("cam", "cam"): {"l1": 0.05}, ("PGD", "grad"): {"l1": 0.10}, ("PGD", "cam"): {"l1": 0.2}}  # fmt: skip
    gap = {("patch", "cam", "adv2"): {"asr": 0.99, "iou": 0.8}, ("patch", "cam", "pgd"): {"asr": 1.0, "iou": 0.1}}
    stadv = {
        ("first", "cam", "stadv-adv2"): {"asr": 1.0, "iou": 0.8},
        ("first", "cam", "stadv"): {"asr": 1.0, "iou": 0.3},
    }
    aid = {("rts", "adv2"): {"iou": 0.93}, ("rts_a", "adv2"): {"iou": 0.4}, ("rts_a", "benign"): {"agreement": 0.03}}
    stated = {"3": published.EFFECTIVENESS, "12": maps, "4": detection, "5": published.ADAPTIVE_MAPS, "9": transfer,
              "8": gap, "stadv": stadv, "aid": aid}  # fmt: skip
    return {key: rows(values) for key, values in stated.items()}


def by_number(results):
    return {one.observation.number: one for one in verdicts(results)}


def test_every_observation_holds_by_the_papers_own_figures():
    found = by_number(of_paper())
    assert {number: one.verdict for number, one in found.items()} == dict.fromkeys(
        ("1", "2", "3", "4", "5", "6", "7", "8", "8 (second)"), HELD
    )


def test_without_runs_nothing_is_said():
    assert {one.verdict for one in verdicts({})} == {NOT_TESTED}
    assert {one.evidence.partition(" has")[0] for one in verdicts({})} == {"no finished run"}


class Read(dict):
    """Remembers which tables a rule looks at."""

    def __init__(self, results):
        super().__init__(results)
        self.tables = set()

    def get(self, key, default=None):
        self.tables.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("one", OBSERVATIONS, ids=lambda one: one.number)
def test_an_observation_names_the_tables_that_its_rule_reads(one):
    read = Read(of_paper())
    assert one.decide(read)
    assert set(one.tables) == read.tables
    assert set(one.tables) <= {item.key for item in ITEMS}


def test_only_the_observations_of_the_tables_asked_for_are_judged():
    assert verdicts({}, ["ig"]) == []
    found = of_paper()
    (seventh, eighth) = verdicts({"9": found["9"]}, ["9"])
    assert (seventh.observation.number, seventh.verdict) == ("7", HELD)
    assert (eighth.verdict, eighth.evidence) == (NOT_TESTED, "table 12 was not asked for (--tables)")


def changed(results, table, place, **values):
    """The same results with one row's figures replaced."""
    new = []
    for row in results[table]:
        cells = row.cells | {key: cell(value) for key, value in values.items()} if row.place == place else row.cells
        new.append(Measured(row.place, cells, row.published))
    assert any(row.place == place for row in new)
    return {**results, table: new}


@pytest.mark.parametrize(
    ("number", "table", "place", "values"),
    [
        ("1", "3", ("first", "mask", "adv2"), {"asr": 0.9}),
        ("1", "3", ("second", "cam", "adv2"), {"confidence": 0.9}),
        ("2", "12", ("first", "grad", "adv2"), {"iou": 0.45}),
        ("2", "12", ("first", "grad", "adv2"), {"l1": 0.05}),
        ("2", "12", ("first", "rts", "adv2"), {"iou": 0.85}),
        ("3", "4", ("squeezing-nlm11-3-4", "mask", "adv2"), {"detection_rate": 1.0}),
        ("4", "4", ("squeezing-bit2", "rts", "adaptive"), {"detection_rate": 0.6}),
        ("4", "5", ("rts", "adaptive"), {"iou": 0.8}),
        ("5", "stadv", ("first", "cam", "stadv-adv2"), {"iou": 0.4}),
        ("6", "8", ("patch", "cam", "adv2"), {"asr": 0.5}),
        ("7", "9", ("grad", "cam"), {"l1": 0.06}),
        ("8", "9", ("grad", "cam"), {"l1": 0.06}),
        ("8 (second)", "aid", ("rts_a", "adv2"), {"iou": 0.7}),
        ("8 (second)", "aid", ("rts_a", "benign"), {"agreement": 0.07}),
    ],
)
def test_one_figure_against_it_is_enough_and_is_named(number, table, place, values):
    one = by_number(changed(of_paper(), table, place, **values))[number]
    assert one.verdict == NOT_HELD
    assert "do not hold" in one.evidence


def test_robustness_that_differs_by_less_than_its_interval_is_no_difference():
    results = of_paper()
    wide = [
        Measured(row.place, {key: cell(one.value, half=0.4) for key, one in row.cells.items()}, row.published)
        for row in results["12"]
    ]
    assert by_number({**results, "12": wide})["8"].verdict == NOT_HELD


def test_a_cell_says_its_interval():
    assert cell(0.966, 0.012).text() == "0.966 [0.954, 0.978]"
    assert Cell(math.nan, math.nan, math.nan, 0).text() == ""
