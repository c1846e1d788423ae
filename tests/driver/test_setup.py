"""setup.py: what the package imports is declared, and the version is read from one place."""

from __future__ import annotations

import ast
import subprocess
import sys

from clone import ROOT

import audiotag

PACKAGE_OF_MODULE = {
    "google": "protobuf",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def setup_lists():
    """REQUIREMENTS and EXTRAS as local/check_requirements.py reads them."""
    sys.path.insert(0, str(ROOT / "local"))
    try:
        from check_requirements import read_lists
    finally:
        sys.path.pop(0)
    return read_lists(ROOT / "setup.py")


def imported_packages():
    """Every package that a module of audiotag imports, with one file that does."""
    found = {}
    for path in sorted((ROOT / "audiotag").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], path)
    return found


def test_every_import_is_declared():
    lists = setup_lists()
    declared = [*lists["REQUIREMENTS"], *(line for extra in lists["EXTRAS"].values() for line in extra)]
    names = {line.split(">")[0].split("<")[0].lower().replace("_", "-") for line in declared}
    for module, path in imported_packages().items():
        if module in sys.stdlib_module_names or module == "audiotag":
            continue
        package = PACKAGE_OF_MODULE.get(module, module).lower().replace("_", "-")
        assert package in names, f"{path} imports {module}, which setup.py does not declare"


def test_pair_of_torch_and_torchaudio_and_lhotse_with_urllib3():
    required = setup_lists()["REQUIREMENTS"]
    assert "torch>=2.11,<2.12" in required
    assert "torchaudio>=2.11,<2.12" in required
    assert "lhotse>=1.33,<1.34" in required
    assert any(line.startswith("urllib3") for line in required)


def test_version_is_that_of_the_package_without_importing_it(tmp_path):
    # setuptools may be absent from the tests' environment: a stand-in prints what setup() is given.
    (tmp_path / "setuptools.py").write_text(
        "def find_packages(include): return include\n"
        "def setup(**given): print(given['version'], given['python_requires'])\n"
    )
    code = (
        f"import runpy, sys; runpy.run_path({str(ROOT / 'setup.py')!r}); assert 'audiotag' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout == f"{audiotag.__version__} >=3.10\n", done.stderr
