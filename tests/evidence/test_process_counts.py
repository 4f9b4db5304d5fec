import pytest

from workers.evidence.process import process_evidence


def digests(*numbers: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in numbers]


def test_a_clean_process_has_nothing_against_it() -> None:
    shards = {"shard-0": "aa", "shard-2": "bb"}
    evidence = process_evidence(digests(1, 2), digests(3, 4, 5), shards, dict(shards))
    assert (evidence.estimate, evidence.n, evidence.m) == (0.0, 2, 3)
    assert evidence.details["untouched_shards"] == 2


@pytest.mark.parametrize(
    ("manifest", "after", "detail"),
    [
        (digests(2, 3), {"shard-0": "aa", "shard-2": "bb"}, "left_in_manifest"),
        (digests(3), {"shard-0": "aa", "shard-2": "cc"}, "untouched_changed"),
        (digests(3), {"shard-0": "aa"}, "untouched_changed"),
        (digests(3), {"shard-0": "aa", "shard-2": "bb", "shard-3": "x"}, "untouched_changed"),
    ],
)
def test_what_contradicts_exact_unlearning_is_counted(
    manifest: list[bytes], after: dict[str, str], detail: str
) -> None:
    before = {"shard-0": "aa", "shard-2": "bb"}
    evidence = process_evidence(digests(1, 2), manifest, before, after)
    assert evidence.estimate == 1.0
    assert evidence.details[detail] == 1


def test_states_that_no_manifest_lists_contradict_as_well() -> None:
    # Otherwise an empty manifest would show everything to be absent.
    evidence = process_evidence(digests(1), [], {}, {}, unlisted=2)
    assert (evidence.estimate, evidence.details["unlisted"]) == (2.0, 2)


def test_no_record_to_forget_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="without a record to forget"):
        process_evidence([], digests(1), {}, {})
