"""Packages that the parts need: which are missing, and how a folder of wheels is put on the path.

Standard library only: this runs before anything is known to be installed.
"""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "datasets": "datasets",
    "accelerate": "accelerate",
    "peft": "peft",
    "trl": "trl",
    "httpx2": "httpx2",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "rapidfuzz": "rapidfuzz",
    "scipy": "scipy",
    "huggingface_hub": "huggingface-hub",
    "regex": "regex",
    "numpy": "numpy",
    "rich": "rich",
    "platformdirs": "platformdirs",
    "psutil": "psutil",
    "filelock": "filelock",
}
"""Modules that training and generating import, each with the package that brings it."""

LEFT_ALONE = ("torch", "triton", "nvidia", "cuda", "pytorch_triton")
"""How names of wheels begin that are never installed: they must fit the machine's driver."""


def missing() -> list[str]:
    """Packages that the parts need and that cannot be found on the path."""
    return [package for module, package in NEEDED.items() if not importlib.util.find_spec(module)]


def wanted(folder: Path) -> list[Path]:
    """The wheels of a folder that are installed, torch and what belongs to it left out."""
    wheels = sorted(folder.glob("*.whl"))
    return [wheel for wheel in wheels if not wheel.name.lower().startswith(LEFT_ALONE)]


def install(folder: Path, target: Path) -> None:
    """Install a folder's wheels into a target folder, without an index and without dependencies.

    Raises:
        SystemExit: there are no wheels, or pip failed.
    """
    wheels = wanted(folder)
    if not wheels:
        raise SystemExit(f"{folder}: no wheels there but torch's; fill it with `pip download`")
    options = ["--no-index", "--no-deps", "--quiet", "--upgrade", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not install {folder}: {done.stderr.strip()[-800:]}")


def describe_package(target: Path) -> None:
    """Give `clair_apo`, used from its sources, the metadata that it reads its version from."""
    if any(target.glob("clair_apo-*.dist-info")):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    folder = target / f"clair_apo-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text)


def how_to_get(packages: list[str]) -> str:
    """What to do about missing packages, in words."""
    names = " ".join(packages)
    return (
        f"missing here: {', '.join(packages)}. Without them only the machine's matrix rate is "
        "measured. With a network: pip install them. Without one: on another machine with the same "
        f"Python and system, pip download -d wheels {names}; copy the folder, and add --wheels "
        "wheels (torch and what belongs to it are left out of it)"
    )
