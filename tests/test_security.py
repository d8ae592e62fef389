"""docs/security.md: every promise names a test that exists. And certificates are always checked."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from vivace.settings import Settings, describe

ROOT = Path(__file__).parents[1]
PAGES = ("docs/security.md", "docs/security.zh-CN.md")
UNCHECKED = re.compile(
    r"CERT_NONE|CERT_OPTIONAL|_create_unverified_context|verify_ssl|ssl_cert_reqs|InsecureRequest"
)


def promises(page: str) -> list[list[str]]:
    """The tests of each promise of a page."""
    start = page.index("\n### ")
    end = page.index("\n## ", start)
    rows = [line for line in page[start:end].splitlines() if line.startswith("| ")]
    found = [re.findall(r"`(tests/[^`]+)`", row.rpartition(" | ")[2]) for row in rows]
    return [tests for row, tests in zip(rows, found, strict=True) if tests or "tests/" in row]


def names(path: Path) -> set[str]:
    """The tests of a file, as pytest names them."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for each in inner:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + each.name)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_names_tests_that_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "`tests/" in row]
    assert len(promises(text)) == len(rows) > 20
    for row in promises(text):
        assert row
        for test in row:
            path, _, name = test.partition("::")
            assert name.rpartition("::")[2].startswith("test_"), test
            assert name in names(ROOT / path), test


def test_no_promise_lacks_a_test() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        start = text.index("\n### ")
        rows = text[start : text.index("\n## ", start)].splitlines()
        titles = [at + 1 for at, row in enumerate(rows) if row.startswith("|---")]
        for at, row in enumerate(rows):
            if row.startswith("| ") and at + 2 not in titles:
                assert "`tests/" in row, row


def test_both_languages_promise_the_same() -> None:
    english, chinese = (promises((ROOT / page).read_text("utf-8")) for page in PAGES)
    assert english == chinese
    policy = (ROOT / "SECURITY.md").read_text("utf-8")
    assert all(page in policy for page in PAGES)


def test_no_setting_is_about_the_check_of_certificates() -> None:
    keys = msgspec.json.encode(describe(Settings())).decode()
    assert not re.search(r'"[^"]*(tls|ssl|verif|insecure|cert)[^"]*":', keys)


def test_no_code_switches_the_check_of_certificates_off() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.keyword) and node.arg in ("ssl", "verify", "check_hostname"):
                assert not (isinstance(node.value, ast.Constant) and not node.value.value), where
            if isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                assert not UNCHECKED.search(name), where
                assert name != "check_hostname", where


def test_an_audit_fails_only_for_what_is_known_and_not_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    audit = import_module("audit")
    found = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    bad = {"name": "a", "version": "1", "vulns": [found]}
    good = {"name": "b", "version": "1", "vulns": []}
    missing = {"name": "c", "skip_reason": "not found"}

    def status(*packages: object) -> object:
        return audit.judged(json.dumps({"dependencies": packages}), "")

    assert status(bad, good, missing) == 1
    assert "a 1: PYSEC-1: fixed by 2\n2 packages looked up, 1 unknown" in capsys.readouterr().out
    assert status(good) == 0
    monkeypatch.setattr(audit, "EXPLAINED", {"CVE-1": "that part is not used"})
    assert status(bad) == 0
    assert "that part is not used" in capsys.readouterr().out
    assert status(missing) == audit.judged("", "a\nno network") == audit.judged("[]", "") == 0
    assert "skipped: the vulnerability service cannot be asked" in capsys.readouterr().out
