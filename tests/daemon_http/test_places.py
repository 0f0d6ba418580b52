"""Folders of state and socket, and which ones are refused."""

import os
import socket
import stat
from pathlib import Path

import pytest

from engine.runs import paths
from engine.runs.errors import ExitCode, UnreachableError


@pytest.fixture(autouse=True)
def no_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_state_folder_is_private_and_of_this_machine(tmp_path: Path) -> None:
    folder = paths.state_folder()
    assert folder == tmp_path / "home/.local/state/magic" / os.uname().nodename
    assert mode(folder) == 0o700
    assert paths.state_folder() == folder


@pytest.mark.parametrize("given", ["/{}/state", "relative"])
def test_xdg_names_the_state_folder_if_it_is_absolute(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", given.format(str(tmp_path)[1:]))
    expected = tmp_path / ("home/.local/state" if given == "relative" else "state")
    assert paths.state_folder() == expected / "magic" / os.uname().nodename


def test_magics_own_variables_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("MAGIC_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("MAGIC_RUNTIME_DIR", str(tmp_path / "r"))
    assert paths.state_folder() == tmp_path / "s"
    assert paths.socket_path() == tmp_path / "r/engine.sock"
    assert mode(tmp_path / "s") == mode(tmp_path / "r") == 0o700


@pytest.mark.parametrize("variable", ["MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR"])
def test_relative_paths_are_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "here")
    with pytest.raises(UnreachableError, match=f"{variable} is 'here'.*absolute"):
        paths.state_folder()
        paths.socket_path()


def test_the_session_folder_holds_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert paths.socket_path() == tmp_path / "magic/engine.sock"
    assert mode(tmp_path / "magic") == 0o700


@pytest.mark.parametrize("session", ["gone", "long", "relative", "not mine"])
def test_without_a_session_folder_it_is_in_tmp(
    session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {
        "gone": tmp_path / "gone", "long": tmp_path / ("x" * 100), "relative": Path("run"),
        "not mine": Path("/proc/self"),
    }[session]  # fmt: skip
    if session == "long":
        folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert paths.socket_path() == Path(f"/tmp/magic-{os.geteuid()}/engine.sock")


def test_the_longest_path_that_binds_is_used_and_no_longer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = len(str(tmp_path / "engine.sock")) + 1
    for length, fits in ((paths.LONGEST_SOCKET_PATH, True), (108, False)):
        folder = tmp_path / ("x" * (length - base))
        folder.mkdir(mode=0o700)
        path = folder / "engine.sock"
        assert len(str(path)) == length
        monkeypatch.setenv("MAGIC_RUNTIME_DIR", str(folder))
        with socket.socket(socket.AF_UNIX) as listening:
            if fits:
                assert paths.socket_path() == path
                listening.bind(str(path))
                continue
            with pytest.raises(UnreachableError, match="longer than the 107 bytes"):
                paths.socket_path()
            with pytest.raises(OSError, match="too long"):
                listening.bind(str(path))


@pytest.mark.parametrize("variable", ["MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("open", r"has mode 0755.*run: chmod 700 \S+$"),
        ("group", r"has mode 0710.*run: chmod 700 \S+$"),
        ("file", "is not a folder"),
        ("link", "is not a folder"),
        ("not mine", "belongs to user 65534, not to you"),
        ("below a file", "cannot create the folder"),
    ],
)
def test_a_folder_that_is_not_private_is_refused(
    variable: str, kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "f"
    if kind in ("open", "group", "not mine"):
        folder.mkdir()
        folder.chmod({"open": 0o755, "group": 0o710, "not mine": 0o700}[kind])
    if kind == "not mine":
        if os.geteuid() != 0:
            pytest.skip("another user takes root")
        os.chown(folder, 65534, 65534)
    if kind == "file":
        folder.touch()
    if kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    if kind == "below a file":
        (tmp_path / "file").touch()
        folder = tmp_path / "file/f"
    monkeypatch.setenv(variable, str(folder))
    ask = paths.state_folder if variable == "MAGIC_STATE_DIR" else paths.socket_path
    with pytest.raises(UnreachableError, match=message) as raised:
        ask()
    assert raised.value.exit_code is ExitCode.UNREACHABLE
    assert str(folder) in str(raised.value)


def test_a_noted_socket_is_found_again(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert paths.noted_socket(tmp_path) is None
    paths.note_socket(tmp_path, tmp_path / "engine.sock")
    assert paths.noted_socket(tmp_path) is None
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "engine.sock"))
        assert paths.noted_socket(tmp_path) == tmp_path / "engine.sock"
    tmp_path.chmod(0o777)
    with pytest.raises(UnreachableError, match="has mode 0777"):
        paths.noted_socket(tmp_path)


@pytest.mark.parametrize("noted", [b"", b"relative\n", b"/" + b"x" * 200, b"\0\xff"])
def test_a_damaged_note_is_none(noted: bytes, tmp_path: Path) -> None:
    (tmp_path / "socket").write_bytes(noted)
    assert paths.noted_socket(tmp_path) is None


def test_what_is_no_socket_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "engine.sock").touch()
    paths.note_socket(tmp_path, tmp_path / "engine.sock")
    with pytest.raises(UnreachableError, match="is not a socket of yours"):
        paths.noted_socket(tmp_path)
