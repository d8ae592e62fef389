"""docs/security.md: every promise names a test that exists. And certificates are always checked."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import msgspec

from vivace.settings import Settings, describe

ROOT = Path(__file__).parents[1]
UNCHECKED = re.compile(
    r"CERT_NONE|CERT_OPTIONAL|_create_unverified_context|verify_ssl|ssl_cert_reqs|InsecureRequest"
)


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
