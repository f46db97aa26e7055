from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
AUDIT = ROOT / ".ci" / "audit.py"
COPIED = "typing_extensions"  # one file and its RECORD, as published


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A real environment that holds one real package; its packages lie in ``site``."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    for file in distribution(COPIED).files or []:
        if "__pycache__" not in str(file):
            copy = site(folder) / file
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(str(file.locate()), copy)
    return folder


def site(environment: Path) -> Path:
    (found,) = environment.glob("lib/python3*/site-packages")
    return found


def project(folder: Path, dependency: str = '"numpy>=1.26",  # why', constraints: str = "numpy==2.0.0") -> Path:
    """A project that the audit has nothing against, but for what the test changes."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools>=77"]\n[project]\nname = "x"\ndependencies = [\n  {dependency}\n]\n'
    )
    (folder / "constraints.txt").write_text(constraints + "\n")
    return folder


def audit(environment: Path, folder: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, AUDIT, "--environment", environment, "--project", folder, "--pip-audit=", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def fake_distribution(environment: Path, name: str, number: str, *metadata: str, **files: str) -> None:
    """What pip leaves of an installed package, with a right RECORD."""
    info = site(environment) / f"{name}-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}", *metadata])
    )
    (info / "INSTALLER").write_text("pip\n")
    for file, text in files.items():
        (info / file.replace("__", ".")).write_text(text)
    # SHA-256 of "pip\n", as any RECORD has it.
    digest = "zuuue4knoyJ-UwPPXg8fezS7VCrXJQrAP7zeNuwvFQg"
    (info / "RECORD").write_text(f"{info.name}/INSTALLER,sha256={digest},4\n{info.name}/METADATA,,\n")


def test_promise_25_a_clean_environment_passes(environment: Path, tmp_path: Path) -> None:
    code, text = audit(environment, project(tmp_path / "project"))
    assert (code, text.splitlines()[-1]) == (0, "1 packages: as published, none known to be bad")
    assert "NOT looked up" in text, "advisories that nobody asked for must not pass for an answer"


@pytest.mark.parametrize(("name", "number"), [("pytorch-lightning", "2.6.3"), ("pytorch_lightning", "2.6.2")])
def test_promise_25_a_malicious_release_is_found(name: str, number: str, environment: Path, tmp_path: Path) -> None:
    fake_distribution(environment, name, number)
    code, text = audit(environment, project(tmp_path / "project"))
    assert code == 1
    assert f"{name} {number} is a malicious upload" in text


def test_promise_25_the_release_after_is_not(environment: Path, tmp_path: Path) -> None:
    fake_distribution(environment, "pytorch-lightning", "2.6.6")
    assert audit(environment, project(tmp_path / "project"))[0] == 0


def test_promise_25_one_changed_byte_is_found(environment: Path, tmp_path: Path) -> None:
    module = site(environment) / f"{COPIED}.py"
    content = bytearray(module.read_bytes())
    content[len(content) // 2] ^= 1
    module.write_bytes(content)
    code, text = audit(environment, project(tmp_path / "project"))
    assert (code, f"{COPIED}.py is not the published file" in text) == (1, True)


def test_promise_25_added_certificates_are_said_and_no_finding(environment: Path, tmp_path: Path) -> None:
    (site(environment) / "certifi").mkdir()
    (site(environment) / "certifi" / "cacert.pem").write_text("the authority of this network\n")
    fake_distribution(environment, "certifi", "1.0")
    with (site(environment) / "certifi-1.0.dist-info" / "RECORD").open("a") as record:
        record.write("certifi/cacert.pem,sha256=zuuue4knoyJ-UwPPXg8fezS7VCrXJQrAP7zeNuwvFQg,4\n")
    code, text = audit(environment, project(tmp_path / "project"))
    assert code == 0
    assert "certifi 1.0: certifi/cacert.pem is not the published file" in text


def test_promise_25_a_missing_file_and_a_missing_record_are_found(environment: Path, tmp_path: Path) -> None:
    (site(environment) / f"{COPIED}.py").unlink()
    fake_distribution(environment, "norecord", "1.0")
    (site(environment) / "norecord-1.0.dist-info" / "RECORD").unlink()
    code, text = audit(environment, project(tmp_path / "project"))
    assert code == 1
    assert f"{COPIED}.py is gone" in text
    assert "norecord 1.0 has no RECORD" in text


@pytest.mark.parametrize("name", ["helper.pth", "sitecustomize.py", "usercustomize.py"])
def test_promise_25_foreign_code_that_runs_at_start_is_found(name: str, environment: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (site(environment) / name).write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n")
    code, text = audit(environment, project(tmp_path / "project"))
    assert (code, f"{name} runs whenever Python starts" in text) == (1, True)
    assert not canary.exists(), "the audit itself ran it"


def test_promise_25_a_package_from_an_address_is_found(environment: Path, tmp_path: Path) -> None:
    fake_distribution(
        environment, "elsewhere", "1.0", direct_url__json=json.dumps({"url": "file:///x", "dir_info": {}})
    )
    code, text = audit(environment, project(tmp_path / "project"))
    assert (code, "elsewhere 1.0 was not installed by its name" in text) == (1, True)


def test_promise_25_pip_check_is_asked(environment: Path, tmp_path: Path) -> None:
    fake_distribution(environment, "needy", "1.0", "Requires-Dist: nowhere-to-be-found>=3")
    code, text = audit(environment, project(tmp_path / "project"))
    assert (code, "nowhere-to-be-found" in text) == (1, True)


@pytest.mark.parametrize(
    ("dependency", "constraints", "finding"),
    [
        ('"numpy>=1.26",', "numpy==2.0.0", "without a reason"),
        ('"numpy @ file:///x",', "numpy==2.0.0", "comes from an address"),
        ('"numpy>=1.26",  # why', "numpy>=2", "is not name==version"),
        ('"numpy>=1.26",  # why', "numpy @ file:///x", "is not name==version"),
        ('"numpy>=1.26",  # why', "--index-url x", "is not name==version"),
        ('# why\n  "numpy>=1.26",', "numpy==2.0.0", None),
    ],
)
def test_promise_25_pyproject_and_constraints(
    dependency: str, constraints: str, finding: str | None, environment: Path, tmp_path: Path
) -> None:
    code, text = audit(environment, project(tmp_path / "project", dependency, constraints))
    assert code == (finding is not None), text
    assert finding is None or finding in text


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, 0, "looked up for 1 of 1"),
        (
            {
                "dependencies": [
                    {"name": "a", "version": "1", "vulns": [{"id": "CVE-0", "fix_versions": ["2"]}]},
                    {"name": "b", "skip_reason": "not found"},
                ]
            },
            1,
            "a 1: CVE-0, fixed in 2",
        ),
        # What it prints where the service knows nothing, above "No known vulnerabilities found" and exit code 0.
        ({"dependencies": [{"name": "a", "skip_reason": "not found"}]}, 0, "NOT looked up"),
        (None, 0, "NOT looked up"),
    ],
)
def test_promise_25_advisories(
    answer: dict[str, object] | None, code: int, said: str, environment: Path, tmp_path: Path
) -> None:
    """With a stand-in for pip-audit, which prints what the real one printed in the same situation."""
    command = tmp_path / "pip-audit"
    printed = "ConnectionError" if answer is None else json.dumps(answer)
    command.write_text(f"#!/bin/sh\necho '{printed}'\nexit {code}\n")
    command.chmod(0o755)
    found, text = audit(environment, project(tmp_path / "project"), f"--pip-audit={command}")
    assert (found, said in text) == (code, True), text


def test_promise_25_constraints_are_versions_of_everything_needed_at_run_time() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    needed = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    for need in needed:
        assert need.specifier.contains(pinned[canonicalize_name(need.name)]), need
    # Everything that those need in turn, as far as it is installed with the same version here.
    for name, number in pinned.items():
        try:
            if version(name) != number:
                continue
        except PackageNotFoundError:
            continue
        for word in distribution(name).requires or []:
            below = Requirement(word)
            if below.marker is None or below.marker.evaluate({"extra": ""}):
                assert canonicalize_name(below.name) in pinned, f"{name} needs {below}"


def test_promise_25_pip_takes_the_constraints() -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    ours = [line for line in pinned if _installed(line)]
    if len(ours) < len(pinned):
        pytest.skip(f"other versions are installed than {sorted(set(pinned) - set(ours))}")
    words = ["--no-index", "--dry-run", "-c", str(ROOT / "constraints.txt"), "torch", "pytorch-lightning", "wandb"]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def _installed(line: str) -> bool:
    name, number = line.split("==")
    try:
        return version(name).split("+")[0] == number
    except PackageNotFoundError:
        return False


def test_promise_25_ci_audits() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^audit\(\) \{\n(?:  .*\n)*  \.venv/bin/python \.ci/audit\.py", text, re.MULTILINE)
    assert re.search(r"^start audit$", text, re.MULTILINE)


@pytest.mark.long
def test_promise_25_this_environment_passes() -> None:
    done = subprocess.run([sys.executable, AUDIT], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
