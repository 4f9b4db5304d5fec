import hashlib

import torch

from workers.unlearn.seeds import environment, environment_digest, seed_for


def test_seeds_differ_by_every_part_and_fit_torch() -> None:
    places = [("a",), ("b",), ("a", 1), ("a", "1"), ("a", 1, 2), ("a", 12), ("a", 2, 1)]
    seeds = [seed_for(str(base), *parts) for base, *parts in places]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_a_seed_follows_its_definition() -> None:
    digest = hashlib.sha256(b'["a","order",1]').digest()
    assert seed_for("a", "order", 1) == int.from_bytes(digest[:8], "big") >> 1


def test_the_environment_names_what_bits_depend_on() -> None:
    known = environment()
    assert known["torch"] == torch.__version__
    assert known["threads"] == "1"
    assert {"cpu_capability", "device", "numpy", "python"} <= known.keys()


def test_the_environment_digest_follows_the_environment() -> None:
    before = environment_digest()
    torch.set_num_threads(2)
    try:
        assert environment_digest() != before
    finally:
        torch.set_num_threads(1)
    assert environment_digest() == before
