import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import hnswlib  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from workers.evidence.needles import (
    Needle,
    NeedleSearch,
    id_needle,
    text_needle,
    vector_needle,
)
from workers.evidence.storage import StoredFile, index_search, stored_bytes
from workers.evidence.types import Evidence

Vectors = npt.NDArray[np.float32]
TEXT = "Ana lives in the third house behind the mill"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def vectors(rng: np.random.Generator) -> Vectors:
    return rng.normal(size=(300, 32)).astype(np.float32)


def stored(*contents: bytes) -> list[tuple[str, io.BytesIO]]:
    return [(f"file-{number}", io.BytesIO(content)) for number, content in enumerate(contents)]


def found(content: bytes, needle: Needle) -> bool:
    return stored_bytes(stored(content), [needle]).estimate == 1


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed


def lz4(content: bytes) -> bytes:
    packed: bytes = pa.Codec("lz4").compress(content, asbytes=True)
    return packed


PACKERS = [gzip.compress, zlib.compress, bz2.compress, lzma.compress, zstd, lz4]
PACKER_NAMES = ["gzip", "zlib", "bzip2", "xz", "zstd", "lz4"]


# Finding


@given(
    content=st.binary(max_size=300),
    forms=st.lists(
        st.binary(min_size=4, max_size=20).filter(lambda b: len(set(b)) > 1), min_size=1
    ),
    places=st.lists(st.integers(0, 300), max_size=3),
)
def test_it_finds_what_the_plain_search_finds(
    content: bytes, forms: list[bytes], places: list[int]
) -> None:
    for place, form in zip(places, forms, strict=False):
        content = content[:place] + form + content[place:]
    search, seen = NeedleSearch([Needle("id", (form,)) for form in forms]), set[int]()
    search.look(content, seen)
    assert seen == {number for number, form in enumerate(forms) if form in content}


def test_a_needle_across_the_edge_of_two_pieces_is_found() -> None:
    edge = 1 << 20
    for length in (4, 7, 8, 500):
        form = bytes(range(1, 5)) + b"x" * (length - 4)
        for place in (edge - length, edge - length + 1, edge - 1, edge, 2 * edge - 2):
            content = bytearray(3 * edge)
            content[place : place + length] = form
            assert found(bytes(content), Needle("id", (form,))), (length, place)


class Trickle(io.RawIOBase):
    """A stream that gives seven bytes at a time, as a pipe may."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    @override
    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(min(size, 7))


def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end() -> None:
    content = b"." * 5_000 + TEXT.encode()
    evidence = stored_bytes([("pipe", Trickle(content))], [text_needle(TEXT)])
    assert (evidence.estimate, evidence.details["bytes"]) == (1, len(content))
    packed = stored_bytes([("pipe", Trickle(zstd(content)))], [text_needle(TEXT)])
    assert (packed.estimate, packed.details["bytes"]) == (1, len(content))


def test_finds_are_counted_once_by_kind_and_by_file(vectors: Vectors) -> None:
    needles = [text_needle(TEXT), text_needle("not there at all"), vector_needle(vectors[0])]
    contents = (TEXT.encode() * 2, b"nothing", TEXT.encode() + vectors[0].tobytes())
    evidence = stored_bytes(stored(*contents), needles)
    assert evidence.family == "storage"
    assert (evidence.threat_model, evidence.n, evidence.m) == ("T0", 3, 3)
    assert evidence.estimate == 2
    assert evidence.details == {
        "files": 3,
        "bytes": sum(map(len, contents)),
        "needles": 3,
        "found_ids": 0,
        "found_vectors": 1,
        "found_texts": 1,
        "unreadable": 0,
        "controls": 0,
        "controls_found": 0,
    }
    assert evidence.would_settle.endswith(": file-0, file-2")


def test_many_files_are_named_by_the_first_few() -> None:
    evidence = stored_bytes(stored(*[TEXT.encode()] * 8), [text_needle(TEXT)])
    assert evidence.would_settle.endswith("file-3, file-4 and 3 more")


def test_controls_tell_a_store_that_writes_in_another_form(vectors: Vectors) -> None:
    normal = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    erased, kept = vector_needle(vectors[0]), [vector_needle(one) for one in vectors[1:4]]
    blind = stored_bytes(stored(normal.tobytes()), [erased], controls=kept)
    assert (blind.estimate, blind.details["controls"], blind.details["controls_found"]) == (0, 3, 0)
    seeing = stored_bytes(stored(vectors[1:].tobytes()), [erased], controls=kept)
    assert (seeing.estimate, seeing.details["controls_found"]) == (0, 3)
    assert "file-0" not in seeing.would_settle
    # Whoever reads it learns that a clean scan is none.
    assert "of 3 that are kept, 0 were found" in blind.would_settle
    unsure = stored_bytes(stored(vectors[1:].tobytes()), [erased])
    assert unsure.would_settle.startswith("the same look for records that are kept")
    assert seeing.would_settle.startswith("nothing more for these files")


# Forms


@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-16-be"])
def test_an_id_is_found_as_text(code: str) -> None:
    assert found(b"\x00\x07" + "kürzel-41".encode(code) + b"\xff", id_needle("kürzel-41"))
    assert not found("kürzel-42".encode(code), id_needle("kürzel-41"))


@pytest.mark.parametrize("form", ["<i4", ">i4", "<i8", ">i8"])
@pytest.mark.parametrize("number", [123_456_789, -123_456_789])
def test_an_id_is_found_as_an_integer_where_asked(form: str, number: int) -> None:
    content = b"\x01" + np.array([5, number, 6], dtype=form).tobytes()
    assert found(content, id_needle(number, (32, 64)))
    assert not found(content, id_needle(number))
    assert found(str(number).encode(), id_needle(number))


def test_an_id_that_is_no_such_integer_is_refused_without_being_named() -> None:
    with pytest.raises(ValueError, match="no form as an integer") as refused:
        id_needle("ana@example.org", [64])
    assert "ana" not in str(refused.value)
    with pytest.raises(ValueError, match="into 32 bits") as large:
        id_needle(98_765_432_109, [32])
    assert "987" not in str(large.value)


@pytest.mark.parametrize("width", ["<f4", "<f2"])
@pytest.mark.parametrize("part", [slice(None), slice(0, 8), slice(-8, None)])
def test_a_vector_is_found_whole_and_by_either_end(
    vectors: Vectors, width: str, part: slice
) -> None:
    content = b"\x00" * 5 + vectors[3].astype(width)[part].tobytes() + b"\x00" * 90
    assert found(content, vector_needle(vectors[3]))
    assert not found(content, vector_needle(vectors[4]))


def test_ends_that_are_empty_do_not_stand_for_a_vector(vectors: Vectors) -> None:
    hollow = vectors[0].copy()
    hollow[:8] = hollow[-8:] = 0
    assert not found(bytes(400), vector_needle(hollow))
    assert found(bytes(3) + hollow.tobytes(), vector_needle(hollow))


def test_a_vector_too_large_for_half_precision_is_looked_for_in_single() -> None:
    large = np.arange(16, dtype=np.float32) * 1e20
    assert found(large.tobytes(), vector_needle(large))


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: json.dumps({"text": text}),
        lambda text: json.dumps({"text": text}, ensure_ascii=False),
        lambda text: '"' + text.replace('"', '""') + '"',
    ],
    ids=["plain", "json-ascii", "json", "csv"],
)
@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_text_is_found_as_files_write_it(write: Callable[[str], str], code: str) -> None:
    text = 'She said "nö"\nand left'
    assert found(write(text).encode(code), text_needle(text))
    assert not found(write(text).encode(code), text_needle(text + "!"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: id_needle("C1"), "shorter than 4 bytes"),
        (lambda: text_needle(""), "shorter than 4 bytes"),
        (lambda: Needle("text", (b"    ",)), "always the same byte"),
        (lambda: Needle("text", ()), "no form"),
        (lambda: vector_needle([]), "one row of finite numbers"),
        (lambda: vector_needle([[1.0, 2.0]]), "one row of finite numbers"),
        (lambda: vector_needle([1.0, float("nan")]), "one row of finite numbers"),
        (lambda: vector_needle([1.0, float("inf")]), "one row of finite numbers"),
        (lambda: vector_needle([0.5] * 16), "over and over"),
    ],
    ids=["id", "text", "spaces", "formless", "empty", "rows", "nan", "inf", "constant"],
)
def test_what_cannot_be_looked_for_is_refused(make: Callable[[], Needle], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_neither_needle_nor_evidence_shows_what_is_looked_for() -> None:
    needle = text_needle(TEXT)
    evidence = stored_bytes(stored(TEXT.encode()), [needle])
    assert "Ana" not in repr(needle) + repr(evidence) + json.dumps(evidence.as_dict())


# What cannot be seen


@pytest.mark.parametrize("pack", PACKERS, ids=PACKER_NAMES)
def test_a_compressed_file_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    content = b"x" * 3_000_000 + TEXT.encode()
    for packed in (pack(content), gzip.compress(pack(content)), pack(content[:1]) + pack(content)):
        evidence = stored_bytes(stored(packed), [text_needle(TEXT)])
        assert (evidence.estimate, evidence.details["unreadable"]) == (1, 0)


@pytest.mark.parametrize("pack", PACKERS, ids=PACKER_NAMES)
def test_a_damaged_file_is_unreadable(pack: Callable[[bytes], bytes]) -> None:
    content = np.random.default_rng(1).integers(0, 99, 50_000, dtype=np.uint8).tobytes()
    evidence = stored_bytes(stored(pack(content)[:-40]), [text_needle(TEXT)])
    assert (evidence.estimate, evidence.details["unreadable"]) == (0, 1)
    assert evidence.would_settle.endswith("unpacked: file-0")


def test_what_is_packed_too_often_is_unreadable() -> None:
    packed = TEXT.encode()
    for _ in range(5):
        packed = gzip.compress(packed)
    evidence = stored_bytes(stored(packed), [text_needle(TEXT)])
    assert (evidence.estimate, evidence.details["unreadable"]) == (0, 1)


def test_what_is_given_decoded_as_well_is_looked_at_as_it_lies() -> None:
    packed = gzip.compress(TEXT.encode())
    evidence = stored_bytes(
        [StoredFile("log", io.BytesIO(packed), decoded=True)], [text_needle(TEXT)]
    )
    assert (evidence.estimate, evidence.details["bytes"]) == (0, len(packed))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet_is_unreadable_until_its_rows_are_given(compression: str) -> None:
    target = io.BytesIO()
    pq.write_table(pa.table({"text": [TEXT] * 50}), target, compression=compression)
    needle = text_needle(TEXT)
    alone = stored_bytes(stored(target.getvalue()), [needle])
    assert alone.details["unreadable"] == 1
    clean = StoredFile("rows", io.BytesIO(b"other rows"))
    raw = StoredFile("part-0", io.BytesIO(target.getvalue()), decoded=True)
    assert stored_bytes([raw, clean], [needle]).details["unreadable"] == 0
    rows = StoredFile("rows", io.BytesIO(TEXT.encode()))
    assert stored_bytes([replace_stream(raw), rows], [needle]).estimate == 1


def replace_stream(file: StoredFile) -> StoredFile:
    stream = file.stream
    assert isinstance(stream, io.BytesIO)
    return file._replace(stream=io.BytesIO(stream.getvalue()))


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 and more",
        b"%PDF-1.7",
        b"\x89HDF\r\n\x1a\n",
        b"rows " + bytes.fromhex("f7cff485b741e288"),
    ],
    ids=["zip", "pdf", "hdf5", "rocksdb"],
)
def test_formats_that_pack_their_content_are_unreadable(content: bytes) -> None:
    assert stored_bytes(stored(content), [text_needle(TEXT)]).details["unreadable"] == 1


def test_bytes_that_look_encrypted_are_unreadable_and_vectors_do_not(
    rng: np.random.Generator,
) -> None:
    needle = text_needle(TEXT)
    assert stored_bytes(stored(rng.bytes(100_000)), [needle]).details["unreadable"] == 1
    # Not only at the start: an archive of compressed members begins with a name.
    later = b" " * (1 << 20) + rng.bytes(100_000)
    assert stored_bytes(stored(later), [needle]).details["unreadable"] == 1
    for width in (np.float16, np.float32, np.float64):
        vectors = rng.normal(size=100_000).astype(width).tobytes()
        assert stored_bytes(stored(vectors), [needle]).details["unreadable"] == 0


def prose(rng: np.random.Generator, size: int) -> bytes:
    """Words at random, in which the text lies: as compressible as a log."""
    words = [f"word{number}" for number in range(2_000)]
    drawn = " ".join(words[number] for number in rng.integers(0, 2_000, size // 6))
    return (drawn[: size // 2] + TEXT + drawn[size // 2 :]).encode()[:size]


def test_what_is_packed_in_a_small_part_of_a_file_is_unreadable(rng: np.random.Generator) -> None:
    needle, packed = text_needle(TEXT), zlib.compress(prose(rng, 60_000))
    assert 1 << 13 < len(packed) < 1 << 15
    plain = b"plain " * 14_000
    edge = 1 << 20
    for content in (
        plain + packed,
        packed[2:],
        b"head" + packed[:8192] + plain,
        b" " * (edge - 4_000) + packed[:8192] + plain,
        b" " * (edge - 6_000) + packed[:8192] + plain,
        # No whole window from the start is packed, the last one is.
        plain[:2_000] + packed[:5_000],
    ):
        evidence = stored_bytes(stored(content), [needle])
        assert (evidence.estimate, evidence.details["unreadable"]) == (0, 1)
    text = stored_bytes(stored(prose(rng, 60_000)), [needle])
    assert (text.estimate, text.details["unreadable"]) == (1, 0)


@pytest.mark.parametrize("level", [1, 5, 6, 9])
def test_bare_zlib_of_every_level_is_unpacked(rng: np.random.Generator, level: int) -> None:
    for content in (TEXT.encode(), prose(rng, 60_000), bytes(5_000_000) + TEXT.encode()):
        packed = zlib.compress(content, level)
        evidence = stored_bytes(stored(packed), [text_needle(TEXT)])
        assert (evidence.estimate, evidence.details["unreadable"]) == (1, 0)
        assert evidence.details["bytes"] == len(content)


@pytest.mark.parametrize(
    "start", [b"x^2", b"x^2 + y^2 = z^2, he wrote. ", b"\x78\x01\x00\x00\x05\x00\x00\x00"]
)
def test_what_only_begins_like_zlib_is_looked_at_as_it_lies(start: bytes) -> None:
    evidence = stored_bytes(stored(start + TEXT.encode()), [text_needle(TEXT)])
    assert (evidence.estimate, evidence.details["unreadable"]) == (1, 0)
    alone = stored_bytes(stored(start), [text_needle(TEXT)])
    assert (alone.estimate, alone.details["unreadable"]) == (0, 0)


def test_small_random_bytes_are_told_from_text_and_numbers() -> None:
    rng, needle = np.random.default_rng(5), text_needle(TEXT)

    def unreadable(content: bytes) -> float:
        return stored_bytes(stored(content), [needle]).details["unreadable"]

    for _ in range(200):
        assert unreadable(rng.bytes(4096)) == 1
        assert unreadable(prose(rng, 4096)) == 0
        signs = rng.integers(0x4E00, 0x9FFF, 3_000)
        assert unreadable("".join(map(chr, signs)).encode()) == 0
    many = rng.normal(size=2_000_000)
    unit = many.reshape(-1, 50) / np.linalg.norm(many.reshape(-1, 50), axis=1, keepdims=True)
    for width in (np.float16, np.float32, np.float64):
        for numbers in (many, unit, rng.random(2_000_000), rng.lognormal(size=2_000_000)):
            assert unreadable(numbers.astype(width).tobytes()) == 0


class Broken(io.RawIOBase):
    """A disk that fails after its first bytes."""

    def __init__(self) -> None:
        self._first = True

    @override
    def read(self, size: int = -1, /) -> bytes:
        if not self._first:
            raise OSError("a bad block")
        self._first = False
        return TEXT.encode()


def test_a_file_that_cannot_be_read_does_not_end_the_search() -> None:
    needle = id_needle("C-4711")
    for decoded in (False, True):
        files = [StoredFile("disk", Broken(), decoded), StoredFile("log", io.BytesIO(b"C-4711"))]
        evidence = stored_bytes(files, [needle])
        assert (evidence.estimate, evidence.details["unreadable"]) == (1, 1)


def test_nothing_to_look_for_or_into_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="without a needle"):
        stored_bytes(stored(b"content"), [])
    with pytest.raises(ValueError, match="without a file"):
        stored_bytes([], [text_needle(TEXT)])
    assert stored_bytes(stored(b""), [text_needle(TEXT)]).estimate == 0


# Indexes


def hnsw(vectors: Vectors, ids: npt.NDArray[np.int64], room: int = 300) -> hnswlib.Index:
    index = hnswlib.Index(space="l2", dim=vectors.shape[1])
    index.init_index(max_elements=room, ef_construction=100, M=16, random_seed=3)
    index.add_items(vectors, ids, num_threads=1)
    index.set_ef(room)
    return index


# hnswlib saves unused places in its lists of neighbours as they came from malloc: an index built in
# a process that has held the erased vectors can have them in its file. This one never has.
REBUILD = """
import hnswlib, numpy, sys
folder = sys.argv[1]
kept, ids = numpy.load(f"{folder}/kept.npy"), numpy.load(f"{folder}/ids.npy")
index = hnswlib.Index(space="l2", dim=kept.shape[1])
index.init_index(max_elements=300, ef_construction=100, M=16, random_seed=3)
index.add_items(kept, ids, num_threads=1)
index.save_index(f"{folder}/rebuilt.bin")
"""


def rebuilt_elsewhere(vectors: Vectors, ids: npt.NDArray[np.int64], folder: Path) -> hnswlib.Index:
    np.save(folder / "kept.npy", vectors)
    np.save(folder / "ids.npy", ids)
    subprocess.run([sys.executable, "-c", REBUILD, str(folder)], check=True)
    index = hnswlib.Index(space="l2", dim=vectors.shape[1])
    index.load_index(str(folder / "rebuilt.bin"))
    index.set_ef(300)
    return index


def searched(index: hnswlib.Index, vectors: Vectors, ids: npt.ArrayLike, near: float) -> Evidence:
    def search(rows: Vectors, k: int) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        labels, distances = index.knn_query(rows, k=k, num_threads=1)
        return labels.astype(np.int64), distances

    return index_search(search, vectors, ids, 280, near)


def test_marked_as_deleted_is_hidden_from_search_and_still_in_the_file(
    vectors: Vectors, tmp_path: Path
) -> None:
    gone = np.arange(20)
    index = hnsw(vectors, np.arange(300))
    assert searched(index, vectors[gone], gone, 1e-6).estimate == 20
    for one in gone:
        index.mark_deleted(int(one))
    hidden = searched(index, vectors[gone], gone, 1e-6)
    assert (hidden.estimate, hidden.n, hidden.m) == (0, 20, 20 * 280)

    index.save_index(str(tmp_path / "index.bin"))
    needles = [vector_needle(one) for one in vectors[gone]]
    controls = [vector_needle(one) for one in vectors[20:30]]
    with (tmp_path / "index.bin").open("rb") as stream:
        saved = stored_bytes([("index.bin", stream)], needles, controls=controls)
    assert saved.estimate == saved.details["found_vectors"] == 20
    assert saved.details["controls_found"] == 10

    rebuilt = rebuilt_elsewhere(vectors[20:], np.arange(20, 300), tmp_path)
    assert searched(rebuilt, vectors[gone], gone, 1e-6).estimate == 0
    (tmp_path / "index.bin.gz").write_bytes(gzip.compress((tmp_path / "index.bin").read_bytes()))
    with (tmp_path / "rebuilt.bin").open("rb") as stream:
        clean = stored_bytes([("rebuilt.bin", stream)], needles, controls=controls)
    assert clean.estimate == clean.details["unreadable"] == 0
    assert clean.details["controls_found"] == 10
    with (
        (tmp_path / "rebuilt.bin").open("rb") as live,
        (tmp_path / "index.bin.gz").open("rb") as backup,
    ):
        both = stored_bytes([("rebuilt.bin", live), ("backup", backup)], needles)
    assert both.estimate == 20
    assert both.would_settle.endswith(": backup")


def test_a_copy_under_another_id_is_seen_by_its_distance(vectors: Vectors) -> None:
    ids = np.arange(300)
    vectors[50] = vectors[3] + 1e-4
    index = hnsw(vectors, ids)
    for one in (3, 4):
        index.mark_deleted(one)
    seen = searched(index, vectors[[3, 4]], [3, 4], 1e-3)
    assert (seen.estimate, seen.details["near_duplicates"], seen.details["found_ids"]) == (1, 1, 0)
    assert searched(index, vectors[[3, 4]], [3, 4], 1e-9).estimate == 0


def exhaustive(vectors: Vectors, ids: npt.NDArray[np.generic]) -> Callable[..., object]:
    def search(rows: Vectors, k: int) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        distances = ((rows[:, None] - vectors) ** 2).sum(axis=-1)
        order = distances.argsort(axis=1)[:, :k]
        return ids[order], np.take_along_axis(distances, order, axis=1)

    return search


def test_an_id_that_another_query_brings_up_is_a_find_and_texts_are_ids(vectors: Vectors) -> None:
    names = np.array([f"row-{number}" for number in range(300)])
    # The vector stored for row-1 is not the one asked for: only full depth brings it up.
    evidence = index_search(
        exhaustive(vectors, names),  # type: ignore[arg-type]
        vectors[[0, 2]] + 5,
        ["row-x", "row-1"],
        300,
        1e-6,
    )
    assert (evidence.estimate, evidence.details["found_ids"]) == (1, 1)


def test_no_answer_is_no_find(vectors: Vectors) -> None:
    def search(rows: Vectors, k: int) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        return np.full((len(rows), 2), -1), np.full((len(rows), 2), np.inf)

    evidence = index_search(search, vectors[:3], [1, 2, 3], 2, 1.0)
    assert (evidence.estimate, evidence.m) == (0, 0)


def test_many_answers_are_asked_for_in_parts(vectors: Vectors) -> None:
    asked: list[int] = []

    def search(rows: Vectors, k: int) -> tuple[npt.ArrayLike, npt.ArrayLike]:
        asked.append(len(rows))
        # Only those asked for first bring up one that is asked for last.
        brought = 9 if len(asked) == 1 else 1
        return np.array([[brought]] * len(rows)), np.array([[9.0]] * len(rows))

    evidence = index_search(search, vectors[:5], [5, 6, 7, 8, 9], 2_000_000, 1.0)
    assert asked == [2, 2, 1]
    assert (evidence.estimate, evidence.m) == (1, 5)


@pytest.mark.parametrize(
    ("vectors", "ids", "k", "answer", "said"),
    [
        (np.zeros((0, 4)), [], 3, None, "at least one"),
        (np.ones((2, 4)), [1], 3, None, "as many ids"),
        (np.ones(4), [1], 3, None, "rows"),
        (np.full((1, 4), np.nan), [1], 3, None, "not finite"),
        (np.ones((1, 4)), [1], 0, None, "at least one answer"),
        (np.ones((1, 4)), [1], 3, ([[1]], [[np.nan]]), "not finite"),
        (np.ones((1, 4)), [1], 3, ([[1, 2]], [[1.0]]), "one row"),
        (np.ones((1, 4)), [1], 3, ([["a"]], [[1.0]]), "another type"),
    ],
    ids=["none", "lengths", "one-row", "nan", "k", "nan-distance", "shapes", "types"],
)
def test_what_no_index_search_can_use_is_refused(
    vectors: Vectors, ids: list[int], k: int, answer: tuple[object, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        index_search(lambda rows, k: answer, vectors, ids, k, 0.1)  # type: ignore[arg-type,return-value]
