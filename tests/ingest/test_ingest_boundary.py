"""A folder is a boundary: nothing outside of it is read, and nothing that is no file."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from vivace.collection.preparation import Source, from_paths
from vivace.errors import IngestError
from vivace.ingest import formats
from vivace.ingest.sandbox import Sandbox
from vivace.ingest.walk import FoundFile, Links, walk
from vivace.settings import Parse
from vivace.types import Document, Failure, Skipped

SECRET = "root:x:0:0"
linux = pytest.mark.skipif(sys.platform != "linux", reason="the file systems are Linux's")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stranger's folder; beside it lies what is the user's own."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/secret.txt").write_text(SECRET)
    (tmp_path / "own/secret.html").write_text(f"<p>{SECRET}</p>")
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub/b.txt").write_text("b")
    return folder


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox(Parse(seconds=20, workers=1))
    yield sandbox
    sandbox.close()


def found(*paths: Path, links: Links = "inside") -> dict[str, str]:
    """What a walk says of each entry: the reason where it is left out, else where it is opened."""
    said = {}
    for item in walk(paths, links=links):
        if isinstance(item, FoundFile):
            said[item.path.name] = (
                "anywhere" if item.boundary is None else os.fsdecode(item.boundary.inside)
            )
        else:
            said[Path(item.source).name] = item.reason
    return said


def read(found: FoundFile) -> Document | IngestError:
    (item,) = formats.read(found.path, max_bytes=1 << 20, boundary=found.boundary)
    return item


def only(folder: Path, name: str) -> FoundFile:
    (item,) = (
        one for one in walk([folder]) if isinstance(one, FoundFile) and one.path.name == name
    )
    return item


# -- links ------------------------------------------------------------------------------------


def test_links_that_lead_out_are_skipped_and_reported(folder: Path, tmp_path: Path) -> None:
    (folder / "absolute.txt").symlink_to(tmp_path / "own/secret.txt")
    (folder / "relative.txt").symlink_to("../own/secret.txt")
    (folder / "twice.txt").symlink_to("absolute.txt")
    (folder / "own").symlink_to(tmp_path / "own")
    (folder / "up").symlink_to("..")
    (folder / "through.txt").symlink_to("own/secret.txt")
    (folder / "dead.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "folder2").mkdir()
    (tmp_path / "folder2/x.txt").write_text(SECRET)
    (folder / "neighbour.txt").symlink_to(tmp_path / "folder2/x.txt")
    out = "is a link that leads out of the folder"
    assert found(folder) == {
        "a.txt": "a.txt",
        "absolute.txt": out,
        "dead.txt": "is a broken link",
        "neighbour.txt": out,
        "own": out,
        "relative.txt": out,
        "b.txt": "sub/b.txt",
        "through.txt": out,
        "twice.txt": out,
        "up": out,
    }


def test_links_to_places_inside_are_followed(folder: Path) -> None:
    (folder / "sub/c").mkdir()
    (folder / "sub/c/d.txt").write_text("d")
    (folder / "b2.txt").symlink_to("sub/b.txt")
    (folder / "c").symlink_to(folder / "sub/c")
    assert found(folder) == {"a.txt": "a.txt", "b2.txt": "sub/b.txt", "d.txt": "sub/c/d.txt"}
    assert only(folder, "d.txt").path == folder / "c/d.txt"


def test_loops_end(folder: Path) -> None:
    (folder / "sub/self").symlink_to("..")
    (folder / "sub/x.txt").symlink_to("x.txt")
    (folder / "sub/y.txt").symlink_to("z.txt")
    (folder / "sub/z.txt").symlink_to("y.txt")
    every: tuple[Links, ...] = ("inside", "anywhere")
    for links in every:
        assert found(folder, links=links) == {
            "a.txt": "a.txt",
            "b.txt": "sub/b.txt",
            "x.txt": "is a broken link",
            "y.txt": "is a broken link",
            "z.txt": "is a broken link",
        }


def test_links_to_hidden_places_are_skipped(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git/c.txt").write_text(SECRET)
    (folder / "c.txt").symlink_to(".git/c.txt")
    (folder / "git").symlink_to(".git")
    hidden = "is a link to something hidden"
    assert found(folder / "..") | {"a.txt": "", "b.txt": ""} == {
        ".git": "is hidden",
        "a.txt": "",
        "c.txt": hidden,
        "git": hidden,
        "b.txt": "",
        "secret.txt": "own/secret.txt",
        "secret.html": "own/secret.html",
    }


def test_all_named_folders_are_inside(folder: Path, tmp_path: Path) -> None:
    (folder / "c.txt").symlink_to(tmp_path / "own/secret.txt")
    said = found(folder, tmp_path / "own")
    assert said["c.txt"] == "secret.txt"
    assert "secret.txt" not in said


def test_no_link_is_followed_if_the_setting_says_so(folder: Path) -> None:
    (folder / "b2.txt").symlink_to("sub/b.txt")
    (folder / "sub2").symlink_to("sub")
    said = found(folder, links="never")
    assert said["b2.txt"] == said["sub2"] == "is a link, and ingest.links follows none"
    assert said["b.txt"] == "sub/b.txt"


def test_links_lead_anywhere_if_the_setting_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / "own").symlink_to(tmp_path / "own")
    said = found(folder, links="anywhere")
    assert said["secret.txt"] == "anywhere"
    assert said["a.txt"] == "a.txt"


def test_a_named_path_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").symlink_to(tmp_path / "own/secret.txt")
    (tmp_path / "link").symlink_to(folder)
    every: tuple[Links, ...] = ("inside", "never")
    for links in every:
        assert found(tmp_path / "file.txt", links=links) == {"file.txt": "anywhere"}
        assert found(tmp_path / "link", links=links) == {"a.txt": "a.txt", "b.txt": "sub/b.txt"}
    document = read(only(tmp_path / "link", "a.txt"))
    assert isinstance(document, Document)
    assert document.id == (tmp_path / "link/a.txt").as_posix()


@pytest.mark.skipif(not Path("/var/tmp").is_dir(), reason="tests' own folder may be below /dev")
def test_the_root_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place is inside of it. The walk is shown nothing but the way to one file."""
    with TemporaryDirectory(dir=Path("/var/tmp").resolve()) as folder:
        file = Path(folder, "a.txt")
        file.write_text("a")

        def one(path: str) -> AbstractContextManager[list[SimpleNamespace]]:
            return nullcontext([SimpleNamespace(name=file.relative_to(path).parts[0])])

        monkeypatch.setattr(os, "scandir", one)
        (item,) = walk([Path("/")])
        assert isinstance(item, FoundFile)
        assert item.boundary is not None
        document = read(item)
        monkeypatch.undo()
    assert isinstance(document, Document)
    assert document.text == "a"


# -- what is no file -----------------------------------------------------------------------------


@linux
def test_files_of_the_kernel_are_left_out(folder: Path) -> None:
    (folder / "k.txt").symlink_to("/proc/kmsg")
    (folder / "s.txt").symlink_to("/sys/kernel/mm/transparent_hugepage/enabled")
    (folder / "p").symlink_to("/proc/self")
    said = found(folder, links="anywhere")
    assert said["k.txt"] == said["p"] == "belongs to the kernel (proc)"
    assert said["s.txt"] == "belongs to the kernel (sysfs)"
    for named in (folder / "k.txt", Path("/proc"), Path("/proc/self")):
        (item,) = walk([named])
        assert isinstance(item, Failure)
        assert "belongs to the kernel (proc)" in item.reason
        assert item.fix


@linux
def test_a_file_that_pretends_to_be_empty_is_not_read(folder: Path) -> None:
    """Files of procfs do; some block or never end."""
    (folder / "k.txt").symlink_to("/proc/self/status")
    (item,) = formats.read(folder / "k.txt", max_bytes=1 << 20)
    assert isinstance(item, IngestError)
    assert item.reason == "is empty"


@linux
def test_pipes_sockets_and_devices_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # a socket's path is short
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
        (folder / "zero.txt").symlink_to("/dev/zero")
        said = found(folder, links="anywhere")
        assert said["pipe.txt"] == said["socket.txt"] == "is neither a file nor a directory"
        assert said["zero.txt"] != "anywhere"
        for name in ("pipe.txt", "socket.txt", "zero.txt"):
            (item,) = formats.read(folder / name, max_bytes=1 << 20)
            assert isinstance(item, IngestError)
            assert item.reason == "is not a regular file"


# -- what changes between finding and reading ------------------------------------------------------


def as_a_link(folder: Path) -> None:
    (folder / "sub/b.txt").unlink()
    (folder / "sub/b.txt").symlink_to("../../own/secret.txt")


def below_a_link(folder: Path) -> None:
    (folder / "sub").rename(folder / "moved")
    (folder.parent / "own/secret.txt").rename(folder.parent / "own/b.txt")
    (folder / "sub").symlink_to("../own")


@pytest.mark.parametrize("swap", [as_a_link, below_a_link])
def test_what_was_replaced_by_a_link_is_not_read(
    folder: Path, swap: Callable[[Path], None]
) -> None:
    file = only(folder, "b.txt")
    swap(folder)
    error = read(file)
    assert isinstance(error, IngestError)
    assert "was replaced by a link" in error.reason
    assert error.source == (folder / "sub/b.txt").as_posix()
    assert error.fix


def test_what_was_replaced_by_a_pipe_is_not_waited_for(folder: Path) -> None:
    file = only(folder, "b.txt")
    (folder / "sub/b.txt").unlink()
    os.mkfifo(folder / "sub/b.txt")
    error = read(file)
    assert isinstance(error, IngestError)
    assert error.reason == "is not a regular file"


def test_a_link_that_was_followed_is_not_followed_again(folder: Path, tmp_path: Path) -> None:
    (folder / "c.txt").symlink_to("sub/b.txt")
    file = only(folder, "c.txt")
    (folder / "c.txt").unlink()
    (folder / "c.txt").symlink_to(tmp_path / "own/secret.txt")
    document = read(file)
    assert isinstance(document, Document)
    assert document.text == "b"


def test_the_sandbox_keeps_the_boundary(folder: Path, sandbox: Sandbox) -> None:
    (folder / "sub/c.html").write_text("<p>c</p>")
    file = only(folder, "c.html")
    (good,) = sandbox.read(file.path, boundary=file.boundary)
    assert isinstance(good, Document)
    (folder / "sub/c.html").unlink()
    (folder / "sub/c.html").symlink_to("../../own/secret.html")
    (bad,) = sandbox.read(file.path, boundary=file.boundary)
    assert isinstance(bad, IngestError)
    assert "was replaced by a link" in bad.reason


def test_a_folder_that_is_swapped_while_it_is_read(folder: Path, sandbox: Sandbox) -> None:
    """Between any two documents: what is outside is never read."""

    def sources() -> Iterator[Source]:
        return from_paths([folder], max_bytes=1 << 20, parse=Parse(), sandbox=sandbox)

    for number in range(20):
        (folder / f"sub/f{number}.txt").write_text("inside")
        (folder.parent / f"own/f{number}.txt").write_text(SECRET)
    texts = set()
    for number, source in enumerate(sources()):
        if isinstance(source, Document):
            texts.add(source.text)
        other, now = ("moved", "sub") if number % 2 else ("sub", "moved")
        if number % 2:
            (folder / now).unlink()
            (folder / other).rename(folder / now)
        else:
            (folder / other).rename(folder / now)
            (folder / other).symlink_to("../own")
    assert SECRET not in texts
    assert "inside" in texts


def test_from_paths_reports_what_it_skips(folder: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    (folder / "evil.txt").symlink_to(tmp_path / "own/secret.txt")
    sources = list(from_paths([folder], max_bytes=1 << 20, parse=Parse(), sandbox=sandbox))
    (skipped,) = (source for source in sources if isinstance(source, Skipped))
    assert skipped.source == (folder / "evil.txt").as_posix()
    assert {source.text for source in sources if isinstance(source, Document)} == {"a", "b"}
