"""JSON with a checksum in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audiotag.seal import SEAL, sealed, unsealed

CONTENT = {"b": [1, 2.5, None, 1e-300, -0.0], "a": {"path": Path("x"), 3: "é"}, "t": (True, "\u2028")}


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}, {"sort_keys": True}])
def test_an_object_comes_back_however_it_was_written(options):
    plain = json.loads(json.dumps({name: CONTENT[name] for name in ("a", "b", "t")}, default=str))
    written = json.dumps({**sealed(CONTENT), "a": plain["a"]}, **options)
    assert unsealed(json.loads(written)) == plain


def test_any_change_is_noticed():
    good = json.loads(json.dumps(sealed({"x": 1, "y": [1, 2]})))
    for bad in (
        {**good, "x": 2},
        {**good, "y": [2, 1]},
        {**good, "z": 0},
        {"y": good["y"], SEAL: good[SEAL]},
    ):
        with pytest.raises(ValueError, match=r'changed after it was written.*delete "checksum"'):
            unsealed(bad)
    with pytest.raises(ValueError, match="changed"):
        unsealed({**good, SEAL: 7})


def test_files_of_old_have_none():
    assert unsealed({"x": 1}) == {"x": 1}
