"""Python packages for a machine without a network: collected where there is a registry, unpacked there.

    python -m benchmarks.gpu.wheels [--python 3.12] [--cuda 13.0]

fills out/gpu-wheels, which git ignores. Of bitsandbytes only the libraries for the CPU and for that CUDA are
kept: 2 MB instead of 43.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "out" / "gpu-wheels"
PINS = ROOT / "dev" / "constraints" / "dev.txt"
PACKAGES = (
    "annotated-types", "awscrt", "bitsandbytes", "pydantic", "pydantic-core", "ruamel-yaml",
    "typing-extensions", "typing-inspection",
)  # fmt: skip
"""What the trainer and its GPU tests import, but for PyTorch, transformers, peft, accelerate, pyarrow,
aiohttp, jinja2, yarl and pytest. lm-eval is imported by runs that ask for it, and none here does."""
PLATFORMS = ("2_28", "2_24", "2_17")
LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default="3.12", help="version of Python on the GPU machine")
    parser.add_argument("--cuda", default="13.0", help="torch.version.cuda on the GPU machine")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        download(options.python, Path(folder))
        for wheel in sorted(Path(folder).glob("*.whl")):
            repack(wheel, FOLDER / wheel.name, {"cpu", "cuda" + options.cuda.replace(".", "")})
    size = 0
    for wheel in sorted(FOLDER.iterdir()):
        size += wheel.stat().st_size
        print(f"{wheel.stat().st_size / 1e6:6.1f} MB  {wheel.name}")
    print(f"{size / 1e6:6.1f} MB  in {FOLDER.relative_to(ROOT)}")


def download(python: str, folder: Path) -> None:
    """The pinned wheels of the packages for x86-64 Linux."""
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--platform=manylinux_{p}_x86_64" for p in PLATFORMS] + ["--platform=manylinux2014_x86_64"]
    names = [f"{name}=={pins[name]}" for name in PACKAGES]
    subprocess.run([*command, "--dest", str(folder), *names], check=True)


def repack(source: Path, target: Path, libraries: set[str]) -> None:
    """Copy a wheel without the libraries of bitsandbytes that are for something else."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        kept = {m[1] for name in old.namelist() if (m := LIBRARY.fullmatch(name))} & libraries
        if source.name.startswith("bitsandbytes") and kept != libraries:
            raise SystemExit(f"{source.name} has no library for {', '.join(sorted(libraries - kept))}")
        for name in old.namelist():
            found = LIBRARY.fullmatch(name)
            if not found or found[1] in kept:
                new.writestr(old.getinfo(name), old.read(name), zipfile.ZIP_DEFLATED)


def unpack(folder: Path, target: Path) -> list[str]:
    """Make the wheels of a folder importable from another. A wheel is a zip of what goes into site-packages,
    so this takes neither pip nor a network. Returns their names."""
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(target)
    return [wheel.name for wheel in wheels]


def name_checkout(target: Path) -> None:
    """Let importlib.metadata find kubetune, which is not installed but imported from the checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = target / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text)


if __name__ == "__main__":
    main()
