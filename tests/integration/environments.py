"""Environments of third parties for the integration tests: made from `third_parties.toml`, kept under `.integrations`.

    verl = prepare("verl")  # makes the environment, or finds it as it was made
    found = verl.run("verl_rewards", "an argument")  # scripts/verl_rewards.py in it prints a JSON object

Another folder than `.integrations` is named by SIF_INTEGRATIONS.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MARKER = "made.json"  # in an environment that is complete
INSTALL_TIMEOUT_S = 1800
LAST_LINES = 30  # of what a failed command printed


class ThirdPartyError(Exception):
    """An environment that cannot be made, or a command in it that failed."""


@dataclass(frozen=True)
class Environment:
    """The environment of a third party.

    Args:
        name: its name in `third_parties.toml`.
        folder: where it lies.
        title: what people call the third party.
        seconds: how long it took to make.
        size_gb: what it takes on disk, in units of 10⁹ bytes.
        distributions: those whose versions tell what was tested.
    """

    name: str
    folder: Path
    title: str
    seconds: float
    size_gb: float
    distributions: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(
        self, script: str, *arguments: str | os.PathLike[str], cwd: Path | None = None, timeout_s: float = 300
    ) -> dict[str, Any]:
        """Run a script of `scripts/` with the environment's Python.

        Args:
            script: its name without `.py`.
            arguments: for its command line.
            cwd: folder to run it in.
            timeout_s: seconds until it is stopped.
        Returns:
            The last JSON object that the script prints, on a line of its own; libraries may print more behind it.
        Raises:
            ThirdPartyError: it failed, or printed no such line; shows the last lines.
        """
        done = self.command(self.python, HERE / "scripts" / f"{script}.py", *arguments, cwd=cwd, timeout_s=timeout_s)
        for line in reversed(done.stdout.splitlines()):
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise ThirdPartyError(f"{script}.py printed no JSON object:\n{_last(done.stdout)}")

    def command(
        self,
        *words: str | os.PathLike[str],
        cwd: Path | None = None,
        timeout_s: float = 300,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run any command with our source on Python's path, offline and without GPUs.

        Raises:
            ThirdPartyError: it failed or took too long; shows the last lines that it printed.
        """
        return _execute([os.fspath(word) for word in words], cwd, timeout_s, self.variables(variables))

    def variables(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a process of this environment finds in `os.environ`; for processes that a test starts itself."""
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "hf"),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            **(more or {}),
        }

    def versions(self) -> dict[str, str]:
        """Versions of the third party's main distributions as they are installed, without local suffixes."""
        code = "import json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        done = self.command(self.python, "-c", code, *self.distributions)
        return {name: version.partition("+")[0] for name, version in json.loads(done.stdout).items()}


def third_parties(file: Path = HERE / "third_parties.toml") -> dict[str, dict[str, Any]]:
    """The entries of `third_parties.toml` by name.

    Raises:
        ThirdPartyError: an entry or one of its steps lacks something; names all that do.
    """
    entries: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
    faults = [
        f"[{name}] has no {key}"
        for name, entry in entries.items()
        for key in ("title", "versions", "step")
        if key not in entry
    ]
    for name, entry in entries.items():
        for number, step in enumerate(entry.get("step", []), 1):
            where = f"[{name}] step {number}"
            if len(step.keys() & {"install", "uninstall", "shim"}) != 1:
                faults.append(f"{where} must have one of install, uninstall and shim, got {', '.join(step)}")
            if not str(step.get("why", "")).strip():
                faults.append(f"{where} does not say why")
            if not isinstance(step.get("seen"), date):
                faults.append(f"{where} does not say on which date that was seen")
            if "shim" in step and not (HERE / "shims" / f"{step['shim']}.py").is_file():
                faults.append(f"{where}: there is no shims/{step['shim']}.py")
            if unknown := step.keys() - {"install", "no_deps", "uninstall", "shim", "at_start", "why", "seen"}:
                faults.append(f"{where}: unknown key {', '.join(sorted(unknown))}")
    if faults:
        raise ThirdPartyError(f"{file.name}: " + "; ".join(faults))
    return entries


def environments_folder() -> Path:
    return Path(os.environ.get("SIF_INTEGRATIONS") or ROOT / ".integrations")


def prepare(name: str) -> Environment:
    """The environment of a third party; made when there is none yet, or its entry has changed.

    Once in a process: what failed is not tried again, an installation takes minutes.

    Raises:
        ThirdPartyError: no such entry, or pip failed; shows its last lines.
    """
    found = _prepared(name)
    if isinstance(found, str):
        raise ThirdPartyError(found)
    return found


@functools.cache
def _prepared(name: str) -> Environment | str:
    """The environment, or why there is none: a cache keeps no exceptions."""
    entries = third_parties()
    if name not in entries:
        return f"third_parties.toml has no [{name}]; it has {', '.join(entries)}"
    try:
        return make(name, entries[name], environments_folder())
    except ThirdPartyError as error:
        return str(error)


def make(name: str, entry: Mapping[str, Any], parent: Path) -> Environment:
    """Make the environment of an entry, or find it made; see `prepare`."""
    folder = parent / name
    identity = _identity(entry)
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = {}
    if made.get("identity") != identity:
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        _execute([sys.executable, "-m", "venv", "--without-pip", str(folder)], None, 60)
        if entry.get("on_ours"):
            (_site(folder) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        for step in entry["step"]:
            _carry_out(step, folder)
        if core := _core():
            _carry_out({"install": core}, folder)
        size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
        made = {"identity": identity, "seconds": round(time.monotonic() - began), "size_gb": round(size / 1e9, 1)}
        (folder / MARKER).write_text(json.dumps(made) + "\n", encoding="utf-8")
    for step in entry["step"]:  # every time: a changed shim needs no new environment
        if "shim" in step:
            _copy_shim(step["shim"], _site(folder), at_start=bool(step.get("at_start")))
    return Environment(name, folder, entry["title"], made["seconds"], made["size_gb"], tuple(entry["versions"]))


def _carry_out(step: Mapping[str, Any], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    if "uninstall" in step:
        _execute([*pip, "uninstall", "--quiet", "--yes", *step["uninstall"]], None, INSTALL_TIMEOUT_S)
    elif "install" in step:
        options = ["--quiet", "--no-cache-dir", "--no-compile", *(["--no-deps"] if step.get("no_deps") else [])]
        _execute([*pip, "install", *options, *step["install"]], None, INSTALL_TIMEOUT_S)


def _copy_shim(name: str, site: Path, *, at_start: bool) -> None:
    shutil.copyfile(HERE / "shims" / f"{name}.py", site / f"{name}.py")
    if at_start:
        (site / f"{name}.pth").write_text(f"import {name}\n", encoding="utf-8")


def _core() -> list[str]:
    """What `import sifthinker` needs."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"])


def _identity(entry: Mapping[str, Any]) -> str:
    """What the environment was made from; reasons and dates make no other one."""
    steps = [{key: value for key, value in step.items() if key not in ("why", "seen")} for step in entry["step"]]
    parts = [steps, _core(), bool(entry.get("on_ours")), sys.version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _site(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _execute(
    words: list[str], cwd: Path | None, timeout_s: float, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = " ".join(words)[:300]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s, cwd=cwd, env=variables
        )
    except subprocess.TimeoutExpired as error:
        raise ThirdPartyError(f"stopped after {timeout_s:.0f} seconds: {command}\n{_last(error.stdout)}") from None
    if done.returncode:
        raise ThirdPartyError(
            f"ended with status {done.returncode}: {command}\n{_last(done.stdout)}\n{_last(done.stderr)}".rstrip()
        )
    return done


def _last(text: str | bytes | None) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
