"""Systems that differ from ours, and what is asked of them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import gptbayes
from gptbayes import home, toolchain
from gptbayes.toolchain import ToolchainError, kernels, system

PACKAGE = Path(gptbayes.__file__).parent


def test_windows_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(system.os, "name", "nt")
    monkeypatch.setattr(system.platform, "system", lambda: "Windows")
    with pytest.raises(ToolchainError, match=r"Linux and macOS, not on Windows; .* WSL 2") as error:
        system.require_supported_platform()
    assert "\n" not in str(error.value)


def test_a_system_is_refused_before_anything_else_is_tried(monkeypatch):
    def refuse():
        raise ToolchainError("not this one")

    monkeypatch.setattr(system, "require_supported_platform", refuse)
    with pytest.raises(ToolchainError, match="not this one"):
        toolchain.ensure_cmdstan()


@pytest.mark.parametrize("answer", [AttributeError, ValueError, OSError, -1])
def test_a_system_that_does_not_say_how_much_memory_it_has(answer, monkeypatch):
    def sysconf(name):
        if isinstance(answer, int):
            return answer if name == "SC_PHYS_PAGES" else 4096
        raise answer

    monkeypatch.setattr(system.os, "sysconf", sysconf)
    monkeypatch.setattr(system, "_memory_limits", lambda *_: [])
    assert system.usable_memory() is None
    assert system.jobs() >= 1


def test_this_system_says_how_much_memory_it_has():
    assert 2**28 < system.usable_memory() < 2**50


@pytest.mark.parametrize(
    ("lines", "limits", "found"),
    [
        (["0::/job/step"], {"job/step/memory.max": "max", "job/memory.max": "7000"}, [7000]),
        (["0::/hidden"], {"memory.max": "5000"}, [5000]),
        (["3:cpu,cpuset:/a", "4:memory:/a"], {"memory/a/memory.limit_in_bytes": "9000"}, [9000]),
        (["4:cpu:/a"], {"memory/a/memory.limit_in_bytes": "9000"}, []),
        ([], {"memory.max": "5000"}, []),
    ],
    ids=["a limit above", "seen as the top", "version 1", "not of memory", "no control groups"],
)
def test_limits_of_containers_and_jobs(tmp_path, lines, limits, found):
    (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
    for name, limit in limits.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    assert system._memory_limits(tmp_path / "own", tmp_path / "mounted") == found


def test_a_real_limit_of_memory_is_respected():
    """In a control group of its own, where this machine lets us make one."""
    top = Path("/sys/fs/cgroup/memory")
    name = "memory.limit_in_bytes"
    if not (top / name).exists():
        top, name = Path("/sys/fs/cgroup"), "memory.max"
    group = top / "gptbayes-test"
    try:
        group.mkdir()
        (group / name).write_text(str(2**30))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made: {error}")
    say = "from gptbayes.toolchain import system; print(system.usable_memory())"
    shell = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "{say}"'
    try:
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    finally:
        group.rmdir()
    assert done.stdout.strip() == str(2**30), done.stderr


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"), [(1, 64, 1), (8, 64, 4), (8, 5, 2), (8, 1, 1), (3, None, 3)]
)
def test_compilers_at_once_are_as_many_as_cores_and_memory_allow(cores, memory, jobs, monkeypatch):
    monkeypatch.setattr(system, "n_cores", lambda: cores)
    monkeypatch.setattr(system, "usable_memory", lambda: memory and memory * 1024**3)
    assert system.jobs() == jobs


@pytest.mark.parametrize(
    ("machine", "known", "flags"),
    [
        ("x86_64", {"-march=native"}, ("-march=native",)),
        ("arm64", {"-mcpu=native"}, ("-mcpu=native",)),
        ("aarch64", {"-march=native", "-mcpu=native"}, ("-mcpu=native",)),
        ("riscv64", set(), ()),
    ],
)
def test_flags_are_those_that_the_compiler_knows(machine, known, flags, monkeypatch):
    monkeypatch.delenv("GPTBAYES_NATIVE", raising=False)
    monkeypatch.setattr(kernels.platform, "machine", lambda: machine)
    monkeypatch.setattr(kernels, "_macros", lambda flag: "#define __X__ 1" if flag in known else "")
    assert kernels.machine_flags() == flags


@pytest.mark.parametrize("where", ["/proc/nobody", "a file", "nowhere"])
def test_without_a_home_commands_work(where, tmp_path):
    """ArviZ makes a folder in the user's cache when it is imported."""
    (tmp_path / "a file").write_text("")
    given = {"HOME": where if where == "/proc/nobody" else str(tmp_path / "a file")}
    if where == "nowhere":
        given = {"HOME": "~"}
    done = run_without_cache(given, "import arviz; print(arviz.__version__)", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not (tmp_path / "~").exists()


def test_nothing_is_built_in_a_folder_that_will_be_gone(tmp_path):
    (tmp_path / "a file").write_text("")
    given = {"HOME": str(tmp_path / "a file")}
    code = "from gptbayes.toolchain import cache; print(cache.cache_folder())"
    done = run_without_cache(given, code, tmp_path)
    assert "has no cache folder to write to: set GPTBAYES_CACHE" in done.stderr
    given["GPTBAYES_CACHE"] = str(tmp_path / "kept")
    assert run_without_cache(given, code, tmp_path).stdout.strip() == str(tmp_path / "kept")


def test_a_home_that_can_be_written_to_is_left_alone(tmp_path):
    code = "import os; print(os.environ.get('XDG_CACHE_HOME'), os.environ.get('MPLCONFIGDIR'))"
    assert run_without_cache({"HOME": str(tmp_path)}, code, tmp_path).stdout == "None None\n"
    assert not home.is_temporary(tmp_path)


def run_without_cache(environment, code, cwd):
    gone = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "GPTBAYES_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    # ArviZ 0.2x announces its 1.0 once a day.
    command = [sys.executable, "-W", "ignore::FutureWarning", "-c", f"import gptbayes\n{code}"]
    return subprocess.run(
        command,
        env={**kept, "PYTHONPATH": str(PACKAGE.parent), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
