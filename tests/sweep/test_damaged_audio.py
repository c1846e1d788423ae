"""Every way of damage on a file of every format: the sound is whole, or the clip is refused with a reason.

Sound without checksums (PCM, ADPCM, ALAC, mp3) cannot show that bits of it have changed: there, other samples
are accepted too, but finite and as many as promised. That is a listed behaviour, as is what libsndfile does
with FLAC and Ogg: it notices what their checksums notice.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import soundfile

from audiotag.corpora.probe import probe_file
from tests.sweep.guard import guarded
from tests.sweep.sounddamage import DAMAGES, TO_BITS, TO_HEADERS
from tests.sweep.sounds import SOUNDS, Outcome, Sound, attempted, cut_of, load_whole, loaded, probed


def allowed(sound: Sound, name: str) -> set[str]:
    """The outcomes that keep the promise."""
    cannot_show = name in TO_HEADERS or (name in TO_BITS and not sound.checked)
    return {"same", "refused", "other"} if cannot_show else {"same", "refused"}


@pytest.fixture(scope="module")
def damaged(module_folder):
    """A function from a sound and a damage to the outcomes in stage 1, and in training after a good one."""
    folder = module_folder

    @cache
    def outcomes(sound: Sound) -> dict[str, tuple[Outcome, Outcome]]:
        path = folder / sound.name
        content = sound.write(path)
        good = load_whole(str(path))
        cut = cut_of(str(path), probe_file(str(path)))

        def both(name: str) -> tuple[Outcome, Outcome]:
            path.write_bytes(DAMAGES[name](content))
            return attempted(probed, str(path), good), attempted(loaded, str(path), cut, good)

        return guarded(both, DAMAGES)

    def outcome(sound: Sound, name: str) -> tuple[Outcome, Outcome]:
        found = outcomes(sound)[name]
        return (Outcome("broken", found),) * 2 if isinstance(found, str) else found

    return outcome


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: sound.name)
def test_good_files_are_read_as_they_are(tmp_path, sound):
    path = tmp_path / sound.name
    sound.write(path)
    assert probe_file(str(path)).problem is None
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert probe_file(str(path))[:3] == (len(samples), sound.rate, sound.channels)
    if rate == 16000:
        np.testing.assert_allclose(load_whole(str(path)), samples.mean(axis=1), atol=1e-7)


CASES = [pytest.param(sound, name, id=f"{sound.name}-{name}") for sound in SOUNDS for name in DAMAGES]


@pytest.mark.parametrize(("sound", "name"), CASES)
def test_stage_1_accepts_what_is_whole(damaged, sound, name):
    outcome, _ = damaged(sound, name)
    assert outcome.kind in allowed(sound, name), outcome.detail


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: sound.name)
def test_a_file_damaged_after_stage_1_is_noticed(damaged, sound):
    # Libsndfile fills up the last block of ADPCM with what its buffer held before.
    names = TO_BITS if "ADPCM" in sound.subtype else DAMAGES
    failures = [
        f"{name}: {outcome.detail}"
        for name in names
        for outcome in [damaged(sound, name)[1]]
        if outcome.kind not in allowed(sound, name)
    ]
    assert not failures, "\n".join(failures)
