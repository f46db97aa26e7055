"""Is what is installed what was published, and is none of it known to be bad? Exits with 1 and the findings if not.

    .venv/bin/python .ci/audit.py                    audit the environment of .venv
    .venv/bin/python .ci/audit.py --constraints      print its run-time packages for constraints.txt

Looks at pyproject.toml (a reason beside every minimum version, no dependency from an address), at constraints.txt
(names and versions only), at the installed files (against the hashes in their RECORD; nobody else's code that runs when
Python starts), at known malicious releases, and asks ``pip check`` and, where its service answers, ``pip-audit``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OWN = "lightning-adv2"
# Uploaded by somebody who was not the project, and withdrawn later; a mirror may still have them.
MALICIOUS = {"pytorch-lightning": {"2.6.2", "2.6.3"}, "lightning": {"2.6.2", "2.6.3"}}
RUN_AT_START = ("*.pth", "sitecustomize.py", "usercustomize.py")
# No code, and a machine's owner adds the authority of its network to it, at any time: that is said, and no finding.
CERTIFICATES = "certifi/cacert.pem"


def bare_minimums(pyproject: str) -> Iterator[str]:
    """Run-time dependencies with a minimum version and no comment that says why."""
    block = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.DOTALL | re.MULTILINE)
    if block is None:
        yield "pyproject.toml: no list of dependencies, one per line"
        return
    above = ""
    for line in block[1].splitlines():
        if ">=" in line.split("#")[0] and "#" not in line and not above.startswith("#"):
            yield f"pyproject.toml: {line.strip()} has a minimum version without a reason; add it as a comment"
        above = line.strip()


def addresses(pyproject: str) -> Iterator[str]:
    """Dependencies that name where to get them instead of a version."""
    table = tomllib.loads(pyproject)
    groups = [table["build-system"]["requires"], table["project"]["dependencies"]]
    groups += table["project"].get("optional-dependencies", {}).values()
    for word in (word for group in groups for word in group):
        if Requirement(word).url:
            yield f"pyproject.toml: {word} comes from an address; name a version"


def loose_constraints(text: str) -> Iterator[str]:
    """Lines of constraints.txt that are more, or less, than a name and a version."""
    for line in text.splitlines():
        if line and not line.startswith("#") and not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!+]+", line):
            yield f"constraints.txt: {line!r} is not name==version"


def malicious(found: list[Distribution]) -> Iterator[str]:
    """Releases that are known to be attacks."""
    for dist in found:
        if dist.version in MALICIOUS.get(canonicalize_name(dist.name), ()):
            yield f"{dist.name} {dist.version} is a malicious upload; remove this environment, change every key it saw"


def changed_files(found: list[Distribution]) -> Iterator[str]:
    """Installed files that are gone or not what their RECORD says, packages without a RECORD or from an address."""
    for dist in found:
        name = f"{dist.name} {dist.version}"
        files = [file for file in dist.files or [] if file.hash]
        if not files:
            yield f"{name} has no RECORD with hashes, so its files cannot be checked"
        for file in files:
            try:
                with Path(str(file.locate())).open("rb") as stream:
                    digest = hashlib.file_digest(stream, file.hash.mode).digest()
            except FileNotFoundError:
                yield f"{name}: {file} is gone"
                continue
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
                if file.as_posix().endswith(CERTIFICATES):
                    print(f"{name}: {file} is not the published file: who added which authorities?")
                    continue
                yield f"{name}: {file} is not the published file"
        if dist.read_text("direct_url.json") and canonicalize_name(dist.name) != OWN:
            yield f"{name} was not installed by its name"


def foreign_code(site: Path, found: list[Distribution]) -> Iterator[str]:
    """Files that Python runs when it starts and that belong to no package."""
    owned = {Path(str(file.locate())).resolve() for dist in found for file in dist.files or []}
    for pattern in RUN_AT_START:
        for path in site.glob(pattern):
            if path.resolve() not in owned:
                yield f"{path.name} runs whenever Python starts and belongs to no package"


def broken(environment: Path) -> Iterator[str]:
    """What ``pip check`` says against the environment."""
    command = [sys.executable, "-m", "pip", "--python", str(environment), "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield from (f"pip check: {line}" for line in (done.stdout + done.stderr).splitlines() if line)


def advisories(site: Path, command: str) -> Iterator[str]:
    """Published advisories, by pip-audit; where it cannot ask, that is said and is no finding."""
    if not command or shutil.which(command) is None:
        print("pip-audit is not installed: advisories were NOT looked up")
        return
    words = [command, "--path", str(site), "--format=json", "--progress-spinner=off", "--timeout=10"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        print(f"pip-audit got no answer ({type(error).__name__}): advisories were NOT looked up")
        return
    known = [package for package in packages if "vulns" in package]
    # It says "no known vulnerabilities" as well when its service knew none of the packages.
    if not known:
        print(f"pip-audit's service knew none of {len(packages)} packages: advisories were NOT looked up")
        return
    print(f"pip-audit: advisories were looked up for {len(known)} of {len(packages)} packages")
    for package in known:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no release"
            yield f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}"


def closure(found: list[Distribution]) -> list[str]:
    """``name==version`` of everything that the package needs to run on this platform."""
    installed = {canonicalize_name(dist.name): dist for dist in found}
    seen: set[str] = set()
    todo = [(OWN, frozenset({"", "lrp", "test"}))]
    while todo:
        name, extras = todo.pop()
        for word in installed[name].requires or []:
            need = Requirement(word)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                key = canonicalize_name(need.name)
                if key not in seen and key in installed:
                    seen.add(key)
                    todo.append((key, frozenset({"", *need.extras})))
    return sorted(f"{name}=={installed[name].version.split('+')[0]}" for name in seen - {OWN})


def main() -> int:
    """Print what is found; 1 if that is anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path(sys.prefix), help="the folder to audit (%(default)s)")
    parser.add_argument("--pip-audit", default="pip-audit", help="the command (%(default)s)")
    parser.add_argument("--project", type=Path, default=ROOT, help="where pyproject.toml and constraints.txt lie")
    parser.add_argument("--constraints", action="store_true", help="print constraints.txt instead")
    options = parser.parse_args()
    (site,) = options.environment.glob("lib/python3*/site-packages")
    found = list(distributions(path=[str(site)]))
    if options.constraints:
        print("\n".join(closure(found)))
        return 0
    pyproject = (options.project / "pyproject.toml").read_text(encoding="utf-8")
    constraints = (options.project / "constraints.txt").read_text(encoding="utf-8")
    findings = [
        *bare_minimums(pyproject),
        *addresses(pyproject),
        *loose_constraints(constraints),
        *malicious(found),
        *changed_files(found),
        *foreign_code(site, found),
        *advisories(site, options.pip_audit),
    ]
    if not findings:  # last, because it starts the environment's own Python
        findings += broken(options.environment)
    drift = sorted(set(closure(found)) - set(constraints.split())) if OWN in {d.name for d in found} else []
    if drift:
        print(f"not the versions of constraints.txt, which is no fault: {', '.join(drift)}")
    print("\n".join(findings) or f"{len(found)} packages: as published, none known to be bad")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
