"""The files beside the code agree with the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(path: Path):
    return yaml.safe_load(path.read_text())


def test_the_citation_has_the_version_and_the_licence(project):
    found = read(ROOT / "CITATION.cff")
    assert found["version"] == project["version"]
    assert found["license"] == project["license"]


def test_the_changelog_has_the_version(project):
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (\d+\.\d+\.\d+)", text, flags=re.M)
    assert project["version"] in headings
    numbers = [tuple(map(int, heading.split("."))) for heading in headings]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_install_what_there_is_and_write_nothing_but_a_publishers_identity(
    path, project
):
    found = read(path)
    assert found["permissions"] == {"contents": "read"}
    for job in found["jobs"].values():
        more = {k: v for k, v in job.get("permissions", {}).items() if v != "read"}
        assert more == ({"id-token": "write"} if path.stem == "publish" else {})
    commands = [
        step["run"]
        for job in found["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    extras = re.findall(r"\.\[(\w+)\]", " ".join(commands))
    assert set(extras) <= project["optional-dependencies"].keys()
    assert commands


def test_the_docs_are_built_from_an_extra_that_there_is(project):
    found = read(ROOT / ".readthedocs.yaml")
    (install,) = found["python"]["install"]
    assert set(install["extra_requirements"]) <= project["optional-dependencies"].keys()
    assert (ROOT / found["sphinx"]["configuration"]).exists()
