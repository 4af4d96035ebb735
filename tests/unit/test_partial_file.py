"""What an earlier run left of a file is used as far as it can be, and never more."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from containers.download import partial_file
from containers.download.partial_file import Arriving, PartialFile, Rewritten
from containers.errors import BadInput, Interrupted, Temporary

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(100))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "large" / "model.safetensors"


def reached(path: Path, part: int | None = 40, *, checked: bool = True) -> list[int]:
    return [one.reached for one in PartialFile(path, 100, part=part, checked=checked).parts]


def split(path: Path) -> Path:
    """Where a file in parts lies."""
    return path.with_name(path.name + ".split")


def leave(path: Path, *sizes: int) -> None:
    """What a run leaves that was ended after so many bytes of each part of 40."""
    with PartialFile(path, len(CONTENT), part=40) as file:
        for part, size in zip(file.parts, sizes, strict=True):
            part.write(CONTENT[part.start : part.start + size])
            part.note()


def arriving(file: PartialFile, transfers: list[Future[None]], stopping: threading.Event | None = None) -> Arriving:
    one, left = Arriving(file, stopping or threading.Event()), iter(transfers)
    one.begin(lambda _: next(left))
    return one


def test_nothing_is_written_once_it_is_closed(path: Path) -> None:
    """The number of its descriptor may be another file's by then."""
    with PartialFile(path, 100) as file:
        pass
    with path.with_name("other").open("wb"), pytest.raises(OSError, match="Bad file descriptor"):
        file.parts[0].write(b"x")


def test_parts_go_where_they_belong(path: Path) -> None:
    """In any order, and the file is whole."""
    with PartialFile(path, 100, part=40) as file:
        for part in reversed(file.parts):
            part.write(CONTENT[part.start : part.stop])
        assert b"".join(file.read()) == file.path.read_bytes() == CONTENT
        assert file.present == 100


def test_each_part_goes_on_where_it_was(path: Path) -> None:
    leave(path, 40, 0, 7)
    assert reached(path) == [40, 40, 87]
    assert PartialFile(path, 100, part=40).present == 47


@pytest.mark.parametrize("part", [None, 10, 40, 100])
def test_the_parts_of_the_run_before_count(path: Path, part: int | None) -> None:
    """However large this run would make them: the size of the file says nothing any more."""
    leave(path, 0, 0, 20)
    assert split(path).stat().st_size == 100
    assert reached(path, part) == [0, 40, 100]


def test_a_beginning_is_a_beginning_in_parts_too(path: Path) -> None:
    """What lies there without a journal came in one part."""
    path.parent.mkdir()
    path.write_bytes(CONTENT[:50])
    assert reached(path, None) == [50]
    assert reached(path) == [40, 50, 80]
    with PartialFile(path, 100, part=40) as file:
        assert bytes(next(file.read(0, 50))) == CONTENT[:50]
    assert not path.exists()  # of this size it would be taken for whole
    assert reached(path) == [40, 50, 80]


def test_a_small_file_has_no_journal(path: Path) -> None:
    with PartialFile(path, 40, part=40) as file:
        file.parts[0].write(CONTENT[:40])
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        ("100 40 BOOT\n0 30\n40 80\n80 9", [30, 80, 80]),  # the end of the last line is missing
        ("100 40 BOOT\n0 30\n0 10\n", [10, 40, 80]),  # taken back
        ("100 40 BOOT\n0 30\n\0\0\0\0\n40 x\n80 90\n", [30, 40, 90]),  # a disk that lost power
        ("100 40 BOOT\n0 99\n40 1\n80 1000\n7 50\n", [40, 40, 100]),
        ("100 40 BOOT\n", [0, 40, 80]),
        ("100 40 BOOT", [0, 40, 80]),
        ("", [0, 40, 80]),
        ("100 40\n0 30\n", [0, 40, 80]),
        ("100 40 another\n0 30\n", [30, 40, 80]),
        ("99 40 BOOT\n0 30\n", [0, 40, 80]),  # of another file
        ("100 0 BOOT\n0 30\n", [0, 40, 80]),
        ("100 100 BOOT\n0 30\n", [0, 40, 80]),
    ],
)
def test_a_journal_is_believed_within_reason(path: Path, journal: str, expected: list[int]) -> None:
    leave(path, 40, 40, 20)
    path.with_name(path.name + ".parts").write_text(journal.replace("BOOT", partial_file._boot()))
    assert reached(path) == expected
    with PartialFile(path, 100, part=40, checked=True):
        pass
    assert reached(path) == expected


def test_what_no_digest_will_check_is_kept_over_no_loss_of_power(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal may be on the disk where the bytes are not; zeros would be stored for them."""
    leave(path, 40, 30, 20)
    assert reached(path, checked=False) == [40, 70, 100]
    monkeypatch.setattr(partial_file, "_boot", lambda: "another")
    assert reached(path) == [40, 70, 100]
    assert reached(path, checked=False) == [0, 40, 80]
    with PartialFile(path, 100, part=40) as file:
        assert file.path.read_bytes() == b""
        assert not file.resumed


def test_a_file_that_lost_its_end_has_no_more_than_its_size(path: Path) -> None:
    leave(path, 40, 40, 20)
    with split(path).open("r+b") as file:
        file.truncate(50)
    assert reached(path) == [40, 50, 80]


def test_a_file_that_is_too_long_is_given_up(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT + b"more")
    assert reached(path, None) == [0]
    with PartialFile(path, 100):
        assert path.read_bytes() == b""


def test_what_was_taken_back_is_not_counted_again(path: Path) -> None:
    leave(path, 40, 30, 0)
    with PartialFile(path, 100, part=40) as file:
        file.parts[1].back(40)
    assert reached(path) == [40, 40, 80]


def test_an_empty_file(path: Path) -> None:
    with PartialFile(path, 0, part=40) as file:
        assert [(part.start, part.stop) for part in file.parts] == [(0, 0)]
    assert path.read_bytes() == b""


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("a file")
    with pytest.raises(BadInput, match="cannot write"), PartialFile(tmp_path / "large" / "x", 10):
        pass


def test_bytes_are_read_while_they_arrive(path: Path) -> None:
    """In order, from whichever part; an error of its transfer comes when its turn does."""
    transfers = [Future[None]() for _ in range(3)]
    with PartialFile(path, 100, part=40) as file:
        pieces = arriving(file, transfers).pieces()
        file.parts[1].write(CONTENT[40:80])
        file.parts[0].write(CONTENT[:10])
        assert bytes(next(pieces)) == CONTENT[:10]
        file.parts[0].write(CONTENT[10:40])
        transfers[0].set_result(None)
        assert bytes(next(pieces)) == CONTENT[10:40]
        transfers[1].set_result(None)
        assert bytes(next(pieces)) == CONTENT[40:80]
        file.parts[2].write(CONTENT[80:])
        transfers[2].set_result(None)
        assert [bytes(piece) for piece in pieces] == [CONTENT[80:]]


def test_an_error_does_not_wait_for_its_turn(path: Path) -> None:
    """Nor does it wait until everything before it is hashed."""
    transfers = [Future[None]() for _ in range(3)]
    with PartialFile(path, 100, part=40) as file:
        one = arriving(file, transfers)
        file.parts[0].write(CONTENT[:10])
        transfers[2].set_exception(Temporary("away"))
        for wait in (one.wait, lambda: list(one.pieces()), lambda: list(one.again())):
            with pytest.raises(Temporary, match="away"):
                wait()
        assert not one.ended
        transfers[1].set_result(None)
        one.end()
        assert transfers[0].cancelled()


@pytest.mark.parametrize("parts", [None, 40])
def test_an_error_is_not_missed_in_the_moment_in_which_it_comes(path: Path, parts: int | None) -> None:
    """A future is done before it calls back."""

    class Slow(Future[None]):
        def _invoke_callbacks(self) -> None:
            pass

    with PartialFile(path, 100, part=parts) as file:
        transfers: list[Future[None]] = [Slow() for _ in file.parts]
        one = arriving(file, transfers)
        for transfer in transfers[:-1]:
            transfer.set_result(None)
        transfers[-1].set_exception(Temporary("away"))
        for wait in (one.wait, lambda: list(one.pieces()), lambda: list(one.again())):
            with pytest.raises(Temporary, match="away"):
                wait()


def test_whoever_waits_is_stopped(path: Path) -> None:
    """While bytes are to come, and while those are hashed that are there."""
    transfers, stopping = [Future[None]()], threading.Event()
    with PartialFile(path, 100) as file:
        one = arriving(file, transfers, stopping)
        file.parts[0].write(CONTENT[:10])
        pieces = one.pieces()
        assert bytes(next(pieces)) == CONTENT[:10]
        stopping.set()
        with pytest.raises(Interrupted):
            next(pieces)
        with pytest.raises(Interrupted):
            one.wait()
        transfers[0].set_result(None)
        with pytest.raises(Interrupted):
            next(one.again())


def test_bytes_that_come_a_second_time_are_not_passed_off_as_the_first(path: Path) -> None:
    """Somebody has hashed them, and the disk may have others now."""
    transfer = Future[None]()
    with PartialFile(path, 100) as file:
        one = arriving(file, [transfer])
        pieces = one.pieces()
        file.parts[0].write(b"old")
        assert bytes(next(pieces)) == b"old"
        file.parts[0].back(0)
        file.parts[0].write(CONTENT)
        transfer.set_result(None)
        with pytest.raises(Rewritten):
            list(pieces)
        assert b"".join(one.again()) == CONTENT
