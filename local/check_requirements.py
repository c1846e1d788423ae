"""Print what this interpreter lacks of setup.py's requirements: check_requirements.py SETUP_PY [EXTRA ...].

Runs under any Python 3, with or without packages; exit status 1 when something is lacking.
"""

import ast
import sys
from pathlib import Path


def main():
    missing = missing_requirements(sys.argv[1], sys.argv[2:])
    print(", ".join(missing))
    sys.exit(1 if missing else 0)


def missing_requirements(setup_py, extras):
    """Requirements of the package and of some extras that are not met, each with what was found."""
    if sys.version_info < (3, 10):  # noqa: UP036 (the interpreter is the user's, of any age)
        return ["Python >= 3.10 (this is {}.{})".format(*sys.version_info[:2])]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging"]
    from importlib import metadata

    lists = read_lists(setup_py)
    wanted = [*lists["REQUIREMENTS"], *(line for extra in extras for line in lists["EXTRAS"][extra])]
    missing = []
    for line in wanted:
        requirement = Requirement(line)
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(line)
            continue
        if not found or not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{line} (found {found})")
    return missing


def read_lists(setup_py):
    """The literals REQUIREMENTS and EXTRAS, read without running setup.py, which needs setuptools."""
    tree = ast.parse(Path(setup_py).read_text(encoding="utf-8"), setup_py)
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("REQUIREMENTS", "EXTRAS")
    }


if __name__ == "__main__":
    main()
