"""Which checkpoints stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from audiotag.training.retention import Retention


def kept(retention, epochs, steps, ranking):
    names = {f"epoch-{number}.pt" for number in epochs} | {f"step-{number}.pt" for number in steps}
    gone = retention.superfluous(sorted(epochs), sorted(steps), ranking)
    assert set(gone) <= names
    assert len(gone) == len(set(gone))
    return names - set(gone)


def test_the_newest_and_the_best_stay():
    retention = Retention(last_epochs=2, last_steps=1, best=2, before_best=0)
    ranking = ["epoch-3.pt", "step-20.pt", "epoch-1.pt"]
    assert kept(retention, range(1, 8), [10, 20, 30, 40], ranking) == {
        "epoch-6.pt", "epoch-7.pt", "epoch-3.pt", "step-20.pt", "step-40.pt"
    }  # fmt: skip


def test_epochs_averaged_with_the_best_stay():
    retention = Retention(last_epochs=1, last_steps=1, best=1, before_best=2)
    assert kept(retention, range(1, 9), [], ["epoch-5.pt"]) == {
        "epoch-3.pt", "epoch-4.pt", "epoch-5.pt", "epoch-8.pt"
    }  # fmt: skip


def test_all_epochs_stay_on_request_and_without_validation_the_newest():
    assert len(kept(Retention(0, 2, 1, 0), range(1, 6), [], [])) == 5
    assert kept(Retention(1, 2, 1, 0), range(1, 6), [7, 8, 9], []) == {
        "epoch-5.pt", "step-8.pt", "step-9.pt"
    }  # fmt: skip


@given(
    st.builds(Retention, st.integers(0, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
    st.sets(st.integers(1, 20)),
    st.sets(st.integers(1, 20)),
    st.randoms(),
)
def test_the_newest_of_each_kind_and_the_best_are_never_deleted(retention, epochs, steps, random):
    names = [f"epoch-{number}.pt" for number in epochs] + [f"step-{number}.pt" for number in steps]
    random.shuffle(names)
    stay = kept(retention, epochs, steps, names)
    assert set(names[: retention.best]) <= stay
    for kind, numbers in (("epoch", epochs), ("step", steps)):
        if numbers:
            assert f"{kind}-{max(numbers)}.pt" in stay
