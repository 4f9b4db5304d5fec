import hashlib
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from workers.artifacts import ArtifactCorrupt, ArtifactMissing, ArtifactStore

PREFIX = "models/0193c0de"


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "artifacts")
        return
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


def test_stores_bytes_under_their_sha256(url: str) -> None:
    store = ArtifactStore(url)
    digest = store.put(PREFIX, b"weights")
    assert digest == hashlib.sha256(b"weights").hexdigest()
    fs, root = fsspec.core.url_to_fs(url)
    assert fs.cat_file(f"{root}/{PREFIX}/{digest[:2]}/{digest}") == b"weights"
    assert ArtifactStore(url).get(PREFIX, digest) == b"weights"


def test_put_is_idempotent_and_leaves_one_object(url: str) -> None:
    store = ArtifactStore(url)
    assert store.put(PREFIX, b"") == store.put(PREFIX, b"")
    fs, root = fsspec.core.url_to_fs(url)
    assert len(fs.find(root)) == 1


def test_put_repairs_an_object_that_was_cut_short(url: str) -> None:
    store = ArtifactStore(url)
    digest = store.put(PREFIX, b"weights")
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{PREFIX}/{digest[:2]}/{digest}", b"wei")
    store.put(PREFIX, b"weights")
    assert store.get(PREFIX, digest) == b"weights"


def test_changed_bytes_are_never_returned(url: str) -> None:
    store = ArtifactStore(url)
    digest = store.put(PREFIX, b"weights")
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{PREFIX}/{digest[:2]}/{digest}", b"weightz")
    with pytest.raises(ArtifactCorrupt, match=digest) as caught:
        store.get(PREFIX, digest)
    assert caught.value.next_step


def test_a_missing_artifact_says_what_to_do(url: str) -> None:
    store = ArtifactStore(url)
    absent = hashlib.sha256(b"never stored").hexdigest()
    assert not store.exists(PREFIX, absent)
    assert store.delete(PREFIX, absent) is False
    with pytest.raises(ArtifactMissing, match=absent) as caught:
        store.get(PREFIX, absent)
    assert caught.value.next_step


def test_list_and_delete_keep_to_their_prefix(url: str) -> None:
    store = ArtifactStore(url)
    digests = sorted(store.put(PREFIX, bytes([number])) for number in range(20))
    store.put(f"{PREFIX}/shards", b"longer prefix")
    store.put(f"{PREFIX}f", b"similar prefix")
    assert store.list(PREFIX) == digests
    assert store.delete(PREFIX, digests[3]) is True
    assert store.delete(PREFIX, digests[3]) is False
    assert store.list(PREFIX) == digests[:3] + digests[4:]
    assert not store.exists(PREFIX, digests[3])
    assert len(store.list(f"{PREFIX}/shards")) == len(store.list(f"{PREFIX}f")) == 1
    assert store.list("models/unknown") == []


def test_json_is_canonical(url: str) -> None:
    store = ArtifactStore(url)
    digest = store.put_json(PREFIX, {"b": [1.0, None, True], "a": "é"})
    assert digest == store.put_json(PREFIX, {"a": "é", "b": [1, None, True]})
    assert store.get(PREFIX, digest) == '{"a":"é","b":[1,null,true]}'.encode()
    assert store.get_json(PREFIX, digest) == {"a": "é", "b": [1, None, True]}
    with pytest.raises(rfc8785.CanonicalizationError):
        store.put_json(PREFIX, float("nan"))


@given(prefix=st.text(max_size=12))
def test_only_plain_prefixes_become_paths(prefix: str) -> None:
    store = ArtifactStore("memory://prefixes")
    part = r"(?!\.)[A-Za-z0-9_.-]+"
    if re.fullmatch(f"{part}(/{part})*", prefix):
        assert store.list(prefix) == []
    else:
        with pytest.raises(ValueError, match="prefix"):
            store.list(prefix)


@pytest.mark.parametrize("digest", ["", "ab", "../" * 21 + "a", "A" * 64, "a" * 64 + "\n"])
def test_only_digests_become_paths(digest: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        ArtifactStore("memory://digests").get(PREFIX, digest)


# The kernel kills the process when the file reaches 1 MiB: always in the middle of the write.
WRITE_AND_DIE = """
import resource, signal, sys
from workers.artifacts import ArtifactStore
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
ArtifactStore(sys.argv[1]).put("models/0193c0de", b"x" * (4 << 20))
"""


def test_a_killed_write_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    data = b"x" * (4 << 20)
    digest = hashlib.sha256(data).hexdigest()
    folder = tmp_path / PREFIX / digest[:2]
    writer = subprocess.run(
        [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert writer.returncode == -signal.SIGXFSZ
    store = ArtifactStore(str(tmp_path))
    assert [path.stat().st_size for path in folder.iterdir()] == [1 << 20]
    assert store.list(PREFIX) == []
    assert not store.exists(PREFIX, digest)
    assert store.put(PREFIX, data) == digest
    assert store.list(PREFIX) == [digest]
    assert store.delete(PREFIX, digest)
    assert not any(folder.iterdir())
