"""The house's walls, held by reading the imports: Ray in its rooms, arrows that point down, nothing at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "egoray"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = {"annotate", "express", "review", "dataset", "train", "serve", "evaluate"}
LEAVES = {  # pure files that stages other than their own may import
    "egoray.models.base",
    *(f"egoray.evaluate.{name}" for name in ("expression", "region", "boundary", "scores", "slices")),
    "egoray.express.checks",
}
GROUND = {"egoray", "egoray.schema", "egoray.errors"}
MAY_IMPORT = {  # room → the rooms below it
    "core": {"core"},
    "formats": {"core", "formats"},
    "synthetic": {"core", "formats", "synthetic"},
    "models": {"core", "models"},
    "grounding": {"core", "grounding"},
    "report": {"core", "formats", "config", "report"},
    "stage": {"core", "formats", "config"},
    "ray stage": {"core", "formats", "config", "models", "grounding", "registry", "ray_cluster", "ray_metrics", "ray_units"},
    "registry": {"core", "models", "grounding", "registry"},
    "config": set(),
    "ray_cluster": set(),
    "ray_metrics": set(),
    "ray_units": {"core", "config", "ray_cluster", "ray_metrics"},
    "terminal": {"core"},
    "schema": set(),
    "errors": set(),
    "__init__": set(),
}
STAGE_MAY_ALSO = {
    "train": {"models", "synthetic"},  # the nano networks are trained on pictures of its own
    "serve": {"synthetic"},  # sample clips to try
}
ANYTHING = {"cli", "demo", "doctor", "pipeline"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names imported by the file; `from a.b import c` counts as a.b.c where that is a module of the package."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                inside = (ROOT / (full.replace(".", "/") + ".py")).exists() or (ROOT / full.replace(".", "/")).is_dir()
                names.add(full if inside else node.module)
    return names


def faults(path: Path) -> list[str]:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ANYTHING:
        return []
    is_ray = path.name.startswith("ray_")
    kind = room if room in MAY_IMPORT else ("ray stage" if is_ray else "stage")
    allowed = MAY_IMPORT[kind] | ({room} if room in STAGES else set()) | STAGE_MAY_ALSO.get(room, set())
    found = []
    for name in imports(path):
        if name.split(".")[0] == "ray" and not is_ray:
            found.append("imports ray outside a ray_*.py file")
        if name.split(".")[0] == "torch" and room in {"core", "formats", "synthetic"}:
            found.append("imports torch")
        if name.startswith("egoray.") and name not in GROUND | LEAVES and name.split(".")[1] not in allowed:
            found.append(f"imports {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_down(path):
    assert faults(path) == []


def test_a_planted_fault_is_caught(tmp_path, monkeypatch):
    planted = PACKAGE / "core" / "planted.py"
    monkeypatch.setattr(Path, "read_text", lambda self: "import ray\nimport torch\nfrom egoray.annotate import plan\n")
    assert len(faults(planted)) == 3


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_call_at_import(path):
    """Module level holds definitions, constants and imports; nothing opens, loads or starts anything."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{path.name}:{node.lineno} runs at import"


def test_help_loads_neither_torch_nor_ray():
    code = "import sys; from egoray.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'ray', 'cv2', 'pyarrow', 'numpy') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]"), done.stderr
    assert "annotate" in done.stdout
