"""The report page: whole in itself, in two languages, and safe whatever a tuning says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from string import Formatter
from typing import Any, Literal, cast
from xml.etree import ElementTree

import numpy as np
import pytest

from vivace.cli.output import digits, number
from vivace.cli.report import page
from vivace.cli.report.frontier import best
from vivace.cli.report.svg import Box, Label, LogScale, RecallScale, placed, width
from vivace.cli.report.texts import (
    CHINESE,
    ENGLISH,
    TEXTS,
    Bilingual,
    Texts,
    left_out,
    size,
    verdict,
)
from vivace.errors import InfeasibleObjective
from vivace.index.flat import FlatIndex
from vivace.testing.conformance import questions, vectors
from vivace.tune.race import tune
from vivace.tune.tuning import Rejected, Tuning
from vivace.tune.workload import Workload, WorkloadPattern
from vivace.types import Footprint, Objective, Plan, Trial

COMMAND = "vivace tune --collection 'a b' --recall 0.95"
LANGUAGES: tuple[Literal["en", "zh"], ...] = ("en", "zh")
VOID = {"meta", "br", "link", "img"}


def trial(family: str, effort: int, recall: float, cpu: float, **params: int) -> Trial:
    return Trial(
        Plan(family, params, effort),
        recall,
        max(0.0, recall - 0.01),
        min(1.0, recall + 0.008),
        0.9 * cpu,
        1.5 * cpu,
        cpu,
        Footprint(26_400_000, 30_700_000),
        17.2,
        333,
    )


@pytest.fixture
def tuning() -> Tuning:
    trials = (
        trial("flat", 0, 1.0, 1.2),
        trial("pq", 20, 0.91, 0.07),
        trial("pq", 60, 0.97, 0.09),
        trial("hnsw", 32, 0.94, 0.05, degree=32),
        trial("hnsw", 48, 0.965, 0.068, degree=32),
        trial("ivf", 24, 0.971, 0.13),
        trial("graph", 48, 0.968, 0.041, degree=32),
        trial("unheard", 1, 0.5, 0.9),
    )
    return Tuning(
        Objective(0.95, 5.0, 30_000_000),
        replace(trials[4], queries=167, recall=0.9612),
        trials,
        (Rejected("hnsw", {"degree": 64}, "would hold 38 MB in memory, where 30 MB are allowed"),),
        "Because it is cheapest.",
        40_000,
        384,
        "cosine",
        "synthetic",
        500,
        WorkloadPattern(0.02, 0.31),
        {"cpu": "A processor", "cores": "2"},
        "8e0f3a61b2c94d77",
        7,
        61.3,
    )


class Outline(HTMLParser):
    """What a page opens and never closes, what it loads, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("infeasible", [False, True])
def test_the_page_is_self_contained(
    tuning: Tuning, language: Literal["en", "zh"], infeasible: bool
) -> None:
    html = page(tuning, language=language, command=COMMAND, infeasible=infeasible)
    outline = Outline(html)
    assert outline.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(outline.tags)
    assert not {name for name, _ in outline.attributes} & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert re.findall(r"https?://[^\s\"'<]+", html) == ["http://www.w3.org/2000/svg"]
    assert "@import" not in html
    assert "url(" not in html
    assert (TEXTS[language].infeasible in outline.text) is infeasible
    for expected in (COMMAND, "8e0f3a61b2c94d77", "A processor", "0.961", "hnsw (degree 32)"):
        assert expected in outline.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_picture_is_well_formed_and_says_what_it_shows(
    tuning: Tuning, language: Literal["en", "zh"]
) -> None:
    html = page(tuning, language=language, command=COMMAND)
    found = re.search(r"<svg.*</svg>", html, re.DOTALL)
    assert found is not None
    root = ElementTree.fromstring(found[0])
    space = {"s": "http://www.w3.org/2000/svg"}
    ids = {e.get("id") for e in root.iter() if e.get("id")}
    assert set((root.get("aria-labelledby") or "").split()) <= ids
    assert "0.961" in (root.findtext("s:desc", namespaces=space) or "")
    marks = [e for e in root.iter() if "mark" in (e.get("class") or "") and len(e)]
    assert len(marks) == len(tuning.trials) + 1  # each tells a pointer its figures
    wide, high = (float(part) for part in (root.get("viewBox") or "").split()[2:])
    for mark in marks:
        place = re.search(r"translate\(([\d.]+) ([\d.]+)\)", mark.get("transform") or "")
        assert place is not None
        assert 0 <= float(place[1]) <= wide
        assert 0 <= float(place[2]) <= high


def test_text_of_a_tuning_is_escaped(tuning: Tuning) -> None:
    evil = "<script>alert(1)</script>&\"'"
    tuning = replace(
        tuning,
        reason=evil,
        data=evil,
        machine={evil: evil},
        rejected=(Rejected(evil, {evil: 1}, evil),),
        trials=tuple(replace(t, plan=replace(t.plan, family=evil)) for t in tuning.trials),
        chosen=replace(tuning.chosen, plan=Plan(evil, {evil: 3}, 4)),
    )
    for language in LANGUAGES:
        outline = Outline(page(tuning, language=language, command=evil))
        assert outline.open == []
        assert "script" not in outline.tags
        assert evil in outline.text


def test_both_languages_say_the_same() -> None:
    def told(value: Any) -> Any:
        """Keys, and what is filled in."""
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        return {name for _, name, _, _ in Formatter().parse(value) if name is not None}

    texts = {name: text for name, text in vars(Texts).items() if isinstance(text, Bilingual)}
    english = {name: text.english for name, text in texts.items()}
    chinese = {name: text.chinese for name, text in texts.items()}
    assert len(texts) > 50
    assert told(english) == told(chinese)
    for words in (english, chinese):
        assert all(words.values())
    # what is Chinese says so in Chinese, but for what has no other name
    same = {key for key in english if english[key] == chinese[key]}
    assert same <= {"p95", "effort", "cpu", "objective_recall"}


def tuned(
    flat: FlatIndex, asked: Workload, objective: Objective, more: Mapping[str, Any]
) -> Tuning:
    try:
        return tune(flat, asked, objective, **more)
    except InfeasibleObjective as error:
        return cast(Tuning, error.nearest)


def test_every_reason_of_the_tuner_is_told_in_chinese() -> None:
    flat = FlatIndex.build(np.arange(3_000), vectors(3_000, 64))
    asked = Workload(questions(150, 64), "given")
    reasons = set()
    for objective, more in (
        (Objective(0.9, memory_bytes=500_000), dict[str, Any]()),
        (Objective(0.9), {"builds": 1}),
        (Objective(0.9), {"budget_seconds": 0.01}),
        (Objective(1.0), {"budget_seconds": 4.0}),
    ):
        found = tuned(flat, asked, objective, more)
        reasons |= {item.reason for item in found.rejected if item.params or item.family != "graph"}
        for language in LANGUAGES:
            assert Outline(page(found, language=language, command=COMMAND)).open == []
    assert len(reasons) >= 3
    told = {reason: left_out(reason, CHINESE) for reason in reasons}
    assert {reason for reason, (_, language) in told.items() if language == "en"} == set()
    assert all(left_out(reason, ENGLISH) == (reason, "en") for reason in reasons)


def test_a_tuning_of_one_trial_can_be_drawn(tuning: Tuning) -> None:
    only = tuning.trials[0]
    tuning = replace(tuning, trials=(only,), chosen=only, rejected=(), interrupted=True)
    text = Outline(page(tuning, language="en", command=COMMAND)).text
    assert ENGLISH.rejected_none in text
    assert ENGLISH.interrupted in text
    text = Outline(page(tuning, language="zh", command=COMMAND)).text
    assert CHINESE.reason_only in text


def test_verdicts(tuning: Tuning) -> None:
    said = {t.plan.family + str(t.plan.effort): verdict(t, tuning, ENGLISH) for t in tuning.trials}
    assert said["pq20"] == (ENGLISH.below, False)
    assert said["pq60"] == ("1.32 × the CPU", True)
    assert said["hnsw48"] == (ENGLISH.close, True)
    tight = replace(tuning, objective=Objective(0.95, 0.5, 1_000_000))
    assert verdict(tuning.trials[0], tight, ENGLISH) == (
        f"{ENGLISH.slow}, {ENGLISH.large}",
        False,
    )


def test_the_frontier_only_rises(tuning: Tuning) -> None:
    found = best(tuning.trials)
    assert [t.plan.family for t in found] == ["graph", "pq", "ivf", "flat"]
    assert sorted(t.recall for t in found) == [t.recall for t in found]


def test_labels_never_meet() -> None:
    within = Box(0, 0, 300, 200)
    labels = [Label(f"label {n}", 150 + n, 100) for n in range(40)]
    boxes = []
    for svg in placed(labels, [Box(140, 90, 160, 110)], within):
        found = re.fullmatch(r'<text x="(.+?)" y="(.+?)" .*>(.*)</text>', svg)
        assert found is not None
        x, base = float(found[1]), float(found[2])
        top = base - 12 * 0.92
        boxes.append(Box(x, top, x + width(found[3], 12), top + 12 * 1.1))
    assert 3 < len(boxes) < 40
    for at, box in enumerate(boxes):
        assert box.left >= 0
        assert box.right <= 301
        assert not any(box.meets(other) for other in boxes[at + 1 :])


def test_scales_keep_order() -> None:
    log = LogScale.around([0.01, 3.0], 60, 700)
    assert 60 < log.at(0.01) < log.at(0.1) < log.at(3.0) < 700
    assert 0.1 in log.ticks()
    recall = RecallScale(0.6, 400, 40)
    places = [recall.at(value) for value in (0.2, 0.6, 0.9, 0.99, 1.0)]
    assert places[0] == places[1] == 400
    assert places[-1] == 40
    assert sorted(places[1:], reverse=True) == places[1:]


def test_numbers() -> None:
    assert [number(v) for v in (0, 1234.5, 12.34, 0.0695, 0.1)] == [
        "0",
        "1234",
        "12.3",
        "0.0695",
        "0.1",
    ]
    assert digits(0.1) == "0.100"
    assert [size(v) for v in (2 * 2**30, 512 * 2**20, 30_000_000)] == ["2 GiB", "512 MiB", "30 MB"]
