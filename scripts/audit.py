"""Known vulnerabilities of the installed packages, by pip-audit: `python scripts/audit.py FOLDER`.

FOLDER is the site-packages of the environment to look at; pip-audit is in this one. Exit status 1
where a vulnerability is neither fixed nor explained below. Where the service cannot be asked,
nothing is known: that is printed, with status 0, as a network is no part of a change's checks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

EXPLAINED: Final[Mapping[str, str]] = {}
"""Why a vulnerability, by its id, does not concern Vivace. One without a fix has no other place."""
_SECONDS: Final = 300


def main(arguments: Sequence[str]) -> int:
    (folder,) = arguments
    command = [sys.executable, "-m", "pip_audit", "--path", folder, "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return skipped("pip-audit did not end in time")
    return judged(done.stdout, done.stderr)


def judged(out: str, err: str) -> int:
    """The exit status for what pip-audit wrote, after printing what it means."""
    try:
        packages: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = err.strip().splitlines()[-1:] or ["it wrote nothing"]
        return skipped(last[0])
    known = [package for package in packages if "vulns" in package]
    if not known:
        return skipped("the service knows none of the packages")
    failed = 0
    for package in known:
        for found in package["vulns"]:
            names = {found["id"], *found.get("aliases", ())}
            reason = next((EXPLAINED[name] for name in names if name in EXPLAINED), "")
            where = f"{package['name']} {package['version']}: {found['id']}"
            fixes = ", ".join(found.get("fix_versions", ())) or "nothing yet"
            print(f"{where}: {reason or f'fixed by {fixes}'}")
            failed += not reason
    unknown = len(packages) - len(known)
    print(f"{len(known)} packages looked up, {unknown} unknown, {failed} vulnerabilities to mend")
    return 1 if failed else 0


def skipped(reason: str) -> int:
    print(f"skipped: the vulnerability service cannot be asked from here: {reason[:300]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
