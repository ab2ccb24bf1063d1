"""What may import what, from the syntax trees."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TELEMETRY = "ORT_DISABLE_TELEMETRY"
# Each room may import those before it.
ORDER = (
    "common",
    "networks",
    "rewards",
    "scores",
    "tasks",
    "pytorch",
    "export",
    "resources",
    "limits",
    "teachers",
    "evaluators",
    "envs",
    "runs",
    "comparison",
    "report",
    "compression",
    "cli",
)
TORCH_FREE = ("common", "networks", "rewards", "scores", "cli")
# Before them no room imports the agents.
FIRST_WITH_AGENTS = ORDER.index("comparison")


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def files_of(module: str) -> list[Path]:
    folder = ROOT / "n2n_gym" / module
    return sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]


def test_the_order_names_every_module():
    names = {
        path.stem if path.is_file() else path.name
        for path in (ROOT / "n2n_gym").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert names - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_to_their_left_only(module):
    place = ORDER.index(module)
    allowed = set(ORDER[: place + 1])
    for path in files_of(module):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "n2n_agents":
                assert place >= FIRST_WITH_AGENTS, f"{path} imports {name}"
            if parts[0] == "n2n_gym":
                assert len(parts) > 1, f"{path} imports all of n2n_gym"
                assert parts[1] in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_needs_no_torch_does_not_import_it(module):
    for path in files_of(module):
        assert not {n for n in imports(path) if n.split(".")[0].startswith("torch")}


def test_agents_know_the_gymnasium_interface_alone():
    for path in (ROOT / "agents").rglob("*.py"):
        known = {name.split(".")[0] for name in imports(path)}
        assert not known & {"n2n_gym", "envs_registry"}, path
    assert not (ROOT / "agents" / "__init__.py").exists()


def test_the_registry_imports_gymnasium_alone():
    for path in (ROOT / "envs_registry").glob("*.py"):
        known = {name.split(".")[0] for name in imports(path)}
        assert known <= {"gymnasium", "envs_registry", *sys.stdlib_module_names}, path


def test_importing_the_package_does_not_import_torch():
    program = (
        "import sys, time, gymnasium\n"
        "import n2n_gym\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'N2NRemove-v0' in gymnasium.registry\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_modules_stay_short():
    for path in (ROOT / "n2n_gym").rglob("*.py"):
        count = len(path.read_text().splitlines())
        assert count <= 450, f"{path} has {count} lines"


def test_environments_do_not_import_onnx():
    program = (
        "import sys\n"
        "import n2n_gym.envs\n"
        "assert 'onnx' not in sys.modules, 'it takes a second'\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_onnx_runtime_reports_nothing(tmp_path):
    program = "import n2n_gym.export.onnx"
    known = {k: v for k, v in os.environ.items() if k not in ("CI", TELEMETRY)}
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=known | {"TMPDIR": str(tmp_path)},
    )
    assert not (tmp_path / ".ses").exists()  # of its reports' sender
