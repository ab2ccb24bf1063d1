"""The rules of imports, checked on the syntax trees."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import n2n_gym

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
    "bench",
    "runs",
    "comparison",
    "pretraining",
    "report",
    "compression",
    "cli",
)
TORCH_FREE = ("common", "networks", "rewards", "scores", "bench", "cli")
# Before them no room imports the agents.
FIRST_WITH_AGENTS = ORDER.index("comparison")


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative path"
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
        "import sys, gymnasium\n"
        "import n2n_gym\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'N2NRemove-v0' in gymnasium.registry\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_front_door_leads_to_what_it_lists():
    api = (ROOT / "docs" / "api.md").read_text()
    for name in n2n_gym.__all__:
        assert getattr(n2n_gym, name) is not None
        assert f"`{name}`" in api, f"docs/api.md does not list {name}"


# What stands in a teacher's place, made from the path of its JSON.
SETTINGS = {
    "path": "path",
    "json": "open(path).read()",
    "architecture": "n2n_gym.Architecture.from_json(open(path).read())",
    "teacher": "n2n_gym.load_teacher(path)",
}


@pytest.mark.parametrize("name", ["N2NRemove-v0", "N2NShrink-v0"])
@pytest.mark.parametrize("given", SETTINGS)
def test_an_episode_scored_by_size_imports_no_torch(name, given, teacher, tmp_path):
    program = (
        "import sys, gymnasium\n"
        "import n2n_gym\n"
        "name, path = sys.argv[1:]\n"
        f"teacher = {SETTINGS[given]}\n"
        "env = gymnasium.make(name, teacher=teacher, evaluator='size')\n"
        "_, info = env.reset(seed=0)\n"
        "over = False\n"
        "while not over:\n"
        "    action = env.action_space.sample(info['action_mask'])\n"
        "    _, reward, over, _, info = env.step(action)\n"
        "assert info['accuracy'] == 1 and reward > 0, info\n"
        "slow = {'torch', 'torchvision', 'sklearn', 'onnx', 'sqlalchemy'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()\n"
    )
    path = tmp_path / "network.json"
    path.write_text(teacher.architecture.to_json())
    subprocess.run([sys.executable, "-c", program, name, str(path)], check=True)


@pytest.mark.slow
def test_another_distributions_agents_are_left_alone(tmp_path):
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    about = tmp_path / "agents-1.0.dist-info"
    about.mkdir()
    metadata = "Metadata-Version: 2.1\nName: agents\nVersion: 1.0\n"
    (about / "METADATA").write_text(metadata)
    program = (
        "import importlib.metadata, pkgutil\n"
        "import envs_registry, n2n_agents, n2n_gym\n"
        "from n2n_gym.cli import app\n"
        "assert importlib.metadata.version('agents') == '1.0'\n"
        "for root in (envs_registry, n2n_agents, n2n_gym):\n"
        "    for module in pkgutil.walk_packages(root.__path__, root.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "for arguments in (['compress', '--help'], ['agents']):\n"
        "    app(arguments, standalone_mode=False)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
    )


def test_modules_stay_short():
    for package in ("n2n_gym", "agents", "envs_registry", "benchmarks", "docs"):
        for path in (ROOT / package).rglob("*.py"):
            count = len(path.read_text().splitlines())
            assert count <= 400, f"{path} has {count} lines"


def mapped_modules() -> set[str]:
    """Paths of all modules that the map in ARCHITECTURE.md names."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.split("| room | module | what it is about |\n|---|---|---|\n")[1]
    found, room = set(), ""
    for line in table.split("\n\n")[0].splitlines():
        first, names, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
        if first:
            room = first.strip("*`")
            if room.endswith(".py"):
                found.add(room)
        folder, _, rest = names.rpartition(": ")
        inside = room + folder.strip("`")
        found |= {f"{inside}{name}.py" for name in re.findall("`(.+?)`", rest)}
    return found


def test_the_map_names_every_module_and_no_other():
    roots = [ROOT / name for name in ("n2n_gym", "agents", "envs_registry")]
    modules = {
        path.relative_to(ROOT).as_posix()
        for root in roots
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert mapped_modules() == modules


def test_the_map_has_the_rooms_in_the_order_of_their_imports():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = re.findall(r"^\| \*\*`n2n_gym/(\w+)(?:/|\.py)`", text, flags=re.M)
    assert tuple(reversed(rooms)) == ORDER


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
