"""What these tests share with those of training."""

from tests.training.conftest import finished

__all__ = ["finished"]
