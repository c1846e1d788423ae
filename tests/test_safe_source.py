"""Nothing in the package can be made to run what a file or a name says: looked for in its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("audiotag/**/*.py"), *ROOT.glob("local/**/*.py"), *ROOT.glob("egs/**/*.py")])

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "dill.load",
    "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.full_load",
    "yaml.load_all", "yaml.unsafe_load_all", "tempfile.mktemp", "torch.jit.load", "torch.hub.load",
    "shutil.unpack_archive", "os.spawnlp", "os.execlp",
}  # fmt: skip
# What a call must, or must not, be given.
WITH = {("torch.load", "weights_only"): True}
WITHOUT = {("numpy.load", "allow_pickle"): True, ("np.load", "allow_pickle"): True}


def dotted(node: ast.AST) -> str:
    """The name that is called: `torch.load`, `eval`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def safe_loaders(tree: ast.AST) -> set[str]:
    """The classes of a file that are loaders of YAML without objects."""
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "yaml.SafeLoader" in map(dotted, node.bases)
    }


def faults(source: str) -> list[str]:
    """The calls of a source that could run foreign code, each with its line."""
    tree = ast.parse(source)
    loaders = {"yaml.SafeLoader", *safe_loaders(tree)}
    # `from pickle import loads` makes a name that is not seen in the call.
    found = [
        f"line {node.lineno}: from {node.module} import {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in FORBIDDEN | {"torch.load", "yaml.load", "numpy.load"}
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {
            keyword.arg: keyword.value.value
            if isinstance(keyword.value, ast.Constant)
            else dotted(keyword.value)
            for keyword in node.keywords
        }
        wrong = (
            name in FORBIDDEN
            or given.get("shell") not in (None, False)
            or (name == "yaml.load" and given.get("Loader") not in loaders)
            or any(name == call and given.get(word) is not value for (call, word), value in WITH.items())
            or any(name == call and given.get(word) is value for (call, word), value in WITHOUT.items())
        )
        if wrong:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:100]}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    assert not faults(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=choice)",
        "from torch import load",
        "from pickle import loads",
        "pickle.load(file)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.SafeLoader)",
        "class L(yaml.Loader): pass\nyaml.load(text, Loader=L)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=wanted)",
        "os.system('ls')",
    ],
)
def test_such_a_line_would_be_noticed(line):
    assert faults(line)


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class L(yaml.SafeLoader): pass\nyaml.load(text, Loader=L)",
        "np.load(path, allow_pickle=False)",
        "re.compile(pattern)",
        "subprocess.run(command)",
    ],
)
def test_other_lines_are_well(line):
    assert not faults(line)
