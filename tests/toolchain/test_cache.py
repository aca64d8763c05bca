"""The cache: once, whole, whoever asks; and routes to a CmdStan."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gptbayes import toolchain
from gptbayes.toolchain import ToolchainError, build, cache, find, install, interface, programs

from .conftest import PROGRAMS

FILL = """
import os, signal, sys, time
from pathlib import Path
from gptbayes.toolchain import cache

def fill(folder):
    with open(sys.argv[2], "a") as journal:
        journal.write("filled\\n")
    (folder / "half").write_text("half")
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    (folder / "whole").write_text("whole")

cache.folder_once(Path(sys.argv[1]), fill)
"""

COMPILE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", stream=sys.stdout)
from gptbayes import toolchain
print(toolchain.compile_program(sys.argv[1]))
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_fill_a_folder_once(tmp_path):
    target, journal = tmp_path / "cache" / "thing", tmp_path / "journal"
    processes = [start(FILL, target, journal, "live") for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        process.stdout.close()
    assert journal.read_text() == "filled\n"
    assert (target / "whole").read_text() == "whole"


def test_a_killed_process_leaves_nothing_that_looks_finished(tmp_path):
    target, journal = tmp_path / "cache" / "thing", tmp_path / "journal"
    with start(FILL, target, journal, "die") as process:
        assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    assert len(list(target.parent.glob(".thing.part-*"))) == 1
    with start(FILL, target, journal, "live") as process:
        assert process.wait() == 0
    assert (target / "whole").read_text() == "whole"
    assert not list(target.parent.glob(".thing.part-*"))


def test_a_failing_fill_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        raise ToolchainError("no")

    with pytest.raises(ToolchainError, match="no"):
        cache.folder_once(tmp_path / "cache" / "thing", fail)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_two_processes_compile_a_program_once(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTBAYES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "installed")
    monkeypatch.setenv("CMDSTAN", str(engine))
    program = tmp_path / "tiny.stan"
    program.write_text("parameters { real x; } model { x ~ std_normal(); }")
    processes = [start(COMPILE, program) for _ in range(2)]
    spoken = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(spoken).count("gptbayes compiling tiny.stan") == 1
    paths = {text.splitlines()[-1] for text in spoken}
    assert len(paths) == 1
    executable = Path(paths.pop())
    assert executable.parent.parent == tmp_path / "cache" / "models"
    done = subprocess.run([executable, "sample"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0


def test_the_key_follows_content_not_place(engine, tmp_path):
    def key(program: Path, header: Path | None = None, **cpp: object) -> str:
        included = programs._included(program, [program.parent])
        return cache.key(programs._content(engine, program, included, header, {}, cpp))

    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        for source in PROGRAMS.iterdir():
            (tmp_path / folder / source.name).write_text(source.read_text())
    one, other = tmp_path / "one", tmp_path / "other"
    assert key(one / "known.stan") == key(other / "known.stan")
    assert key(one / "known.stan") != key(one / "known.stan", O=1)
    functions = other / "centered.stanfunctions"
    functions.write_text(functions.read_text().replace("y - mu", "y - (mu)"))
    assert key(one / "known.stan") != key(other / "known.stan")
    before = key(other / "external.stan", other / "twice.hpp")
    (other / "factor.hpp").write_text("constexpr double factor = 3;")
    assert key(other / "external.stan", other / "twice.hpp") != before


def test_a_program_that_is_none(engine, tmp_path):
    bad = tmp_path / "bad.stan"
    bad.write_text("parameters { real x }")
    with pytest.raises(ToolchainError, match=r"bad\.stan is no valid Stan program"):
        toolchain.compile_program(bad)
    with pytest.raises(ValueError, match="program must be a Stan file"):
        toolchain.compile_program(tmp_path / "missing.stan")


def test_missing_compiler_is_named(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("GPTBAYES_CACHE", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"missing a C\+\+ compiler .*apt-get install g\+\+"):
        toolchain.ensure_cmdstan()


@pytest.mark.parametrize("character", [*" \t\n#$%&'()*,:;<=>?[]^`{|}!\"\\", "\u2028"])
def test_a_cache_whose_path_make_cannot_read_is_refused(character, monkeypatch):
    monkeypatch.setenv("GPTBAYES_CACHE", f"/tmp/a{character}b")
    with pytest.raises(ToolchainError, match="in its path, which make or the shell"):
        cache.cache_folder()


def test_compiling_in_a_path_of_unusual_characters(engine, tmp_path, monkeypatch):
    """The cache's own path may have letters of any script; the program's path may have anything."""
    monkeypatch.setenv("CMDSTAN", str(engine))
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "installed")
    monkeypatch.setenv("GPTBAYES_CACHE", str(tmp_path / "Größe+@~-_.漢e\u0301"))
    folder = tmp_path / "a b's (c) $HOME; 50% #1, ü"
    folder.mkdir()
    for source in PROGRAMS.iterdir():
        (folder / source.name).write_text(source.read_text())
    program = toolchain.compile_program(folder / "known.stan", include_paths=[folder])
    done = subprocess.run([program, "info"], capture_output=True, text=True, check=True)
    assert "stan_version_major = 2" in done.stdout


@pytest.mark.parametrize("name", ["../centered.stanfunctions", "/tmp/centered.stanfunctions"])
def test_an_include_from_elsewhere_is_refused(engine, name, tmp_path):
    program = tmp_path / "program.stan"
    program.write_text(f"functions {{\n#include {name}\n}}\n")
    with pytest.raises(ToolchainError, match=r"program\.stan includes .*wanted a path below"):
        toolchain.compile_program(program, include_paths=[PROGRAMS])


def test_an_engine_of_somebody_else_is_not_written_to(engine, tmp_path, monkeypatch):
    """As in a container image or a cluster's module: nothing to build, so nothing to lock."""
    monkeypatch.setattr(build.cache, "locked", None)
    build.prepare(engine, [])
    assert toolchain.ensure_cmdstan() == engine
    with pytest.raises(TypeError):
        build.prepare(engine, ["CXXFLAGS=-DNOBODY_BUILT_THIS"])


def test_headers_that_are_gone_are_found_again(engine, tmp_path, monkeypatch):
    wheel = build._find_wheel()
    (tmp_path / "include").symlink_to(tmp_path / "gone")
    build._mend_headers(wheel, tmp_path)
    assert (tmp_path / "include" / "stan" / "version.hpp").is_file()


def test_unwritable_cache_is_named(engine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPTBAYES_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ToolchainError, match="cannot write to the cache folder"):
        toolchain.ensure_cmdstan()


def fake_cmdstan(folder: Path, version: str, *, built: bool = True) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "makefile").write_text(f"CMDSTAN_VERSION := {version}\n")
    if built:
        (folder / "bin" / "stanc").write_text("")
    return folder


def test_an_old_or_broken_cmdstan_is_named_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    old = fake_cmdstan(tmp_path / "old", "2.30.1")
    monkeypatch.setenv("CMDSTAN", str(old))
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "installed")
    with pytest.raises(ToolchainError, match=rf"{old} is version 2\.30\.1, wanted 2\.33"):
        toolchain.ensure_cmdstan()
    unbuilt = fake_cmdstan(tmp_path / "unbuilt", "2.36.0", built=False)
    monkeypatch.setenv("CMDSTAN", str(unbuilt))
    with pytest.raises(ToolchainError, match="is not built"):
        toolchain.ensure_cmdstan()
    monkeypatch.setenv("CMDSTAN", str(tmp_path / "nowhere"))
    with pytest.raises(ToolchainError, match="no makefile"):
        toolchain.ensure_cmdstan()
    # one that cmdstanpy installed serves, when CMDSTAN is no good
    good = fake_cmdstan(tmp_path / ".cmdstan" / "cmdstan-2.36.0", "2.36.0")
    assert toolchain.ensure_cmdstan() == good
    assert os.environ["CMDSTAN"] == str(good)


def test_cmdstanpy_decides_how_old_a_cmdstan_may_be(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CMDSTAN", str(fake_cmdstan(tmp_path / "old", "2.36.0")))
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "installed")
    assert toolchain.ensure_cmdstan() == tmp_path / "old"
    monkeypatch.setattr(interface, "OLDEST_CMDSTAN", (2, 37))  # as with cmdstanpy 2.0
    with pytest.raises(ToolchainError, match=r"is version 2\.36\.0, wanted 2\.37 or newer"):
        toolchain.ensure_cmdstan()


def test_without_httpstan_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CMDSTAN", "")
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "auto")
    monkeypatch.setattr(install.find, "release_reachable", lambda: False)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolchainError, match=r"pip install 'gptbayes\[engine\]' .*CMDSTAN"):
        toolchain.ensure_cmdstan()


def test_unknown_route(monkeypatch):
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "magic")
    with pytest.raises(ToolchainError, match="must be one of auto, installed, official, httpstan"):
        toolchain.ensure_cmdstan()


def test_failed_download_falls_back_to_httpstan(engine, tmp_path, monkeypatch):
    def fail() -> tuple[Path, str]:
        raise ToolchainError("no luck")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CMDSTAN", "")
    monkeypatch.setenv("GPTBAYES_CMDSTAN", "auto")
    monkeypatch.setattr(install, "_worth_downloading", lambda: True)
    monkeypatch.setattr(install, "_download", fail)
    monkeypatch.setattr(build, "build_from_httpstan", lambda: engine)
    assert toolchain.ensure_cmdstan() == engine


def test_the_connection_test_does_not_hang(monkeypatch):
    over = threading.Event()

    def hang(*_: object, **__: object) -> None:
        over.wait()
        raise OSError("too late")

    monkeypatch.setattr(find.urllib.request, "urlopen", hang)
    began = time.perf_counter()
    assert not find.release_reachable(timeout=0.2)
    assert time.perf_counter() - began < 2
    over.set()


def test_describe_and_check(engine):
    found = toolchain.describe()
    assert found.route == "httpstan"
    assert found.folder == engine
    assert "stanc" in found.stanc
    done = toolchain.check()
    assert abs(done.mean) < 5 / 1000**0.5  # of 4000 draws, 1000 effective ones at the least
    assert 0.9 < done.sd < 1.1


@pytest.mark.parametrize("how", ["truncated", "one bit", "gone", "digests"])
def test_what_is_damaged_is_made_again(tmp_path, how):
    """And only that: a whole folder is not touched, nor files whose digests are not kept."""
    target, filled = tmp_path / "thing", []

    def fill(folder):
        filled.append(folder)
        (folder / "sub").mkdir()
        (folder / "sub" / "library").write_bytes(bytes(range(256)))
        (folder / "large").write_text("large")

    for _ in range(2):
        cache.folder_once(target, fill, ("sub/*",))
    (target / "large").write_text("more")
    cache.folder_once(target, fill, ("sub/*",))
    assert len(filled) == 1
    path = target / "sub" / "library"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    damage = {
        "truncated": lambda: path.write_bytes(content[:90]),
        "one bit": lambda: path.write_bytes(content),
        "gone": path.unlink,
        "digests": lambda: (target / ".digests.json").write_text("[1]"),
    }
    damage[how]()
    cache.folder_once(target, fill, ("sub/*",))
    assert len(filled) == 2
    assert path.read_bytes() == bytes(range(256))
    assert list(tmp_path.glob(".thing.part-*")) == []


def test_a_folder_without_digests_gets_them(tmp_path):
    """Of a version that kept none; a later change is then found."""
    target = tmp_path / "thing"
    target.mkdir()
    (target / "library").write_text("whole")
    cache.folder_once(target, lambda folder: pytest.fail("it is there"))
    assert (target / ".digests.json").is_file()
    (target / "library").write_text("hole")
    cache.folder_once(target, lambda folder: (folder / "library").write_text("whole"))
    assert (target / "library").read_text() == "whole"


def test_damaged_kernels_are_compiled_again(tmp_path, monkeypatch):
    """A scribbled shared library would end the process that loads it."""
    monkeypatch.setenv("GPTBAYES_CACHE", str(tmp_path / "cache"))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "gpt.cpp").write_text('extern "C" int answer() { return 42; }\n')
    built = toolchain.build_kernels(sources)
    whole = built.library.read_bytes()
    built.library.write_bytes(whole[: len(whole) // 2])
    again = toolchain.build_kernels(sources)
    assert again == built
    assert ctypes.CDLL(str(again.library)).answer() == 42
