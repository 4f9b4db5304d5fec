"""Every method that is installed is told in words on the dashboard."""

from app.dashboard.words import METHODS, method_words
from lethe import methods as registry


def test_every_method_has_words_and_its_own_come_first() -> None:
    for name, spec in registry.METHODS.items():
        words = method_words(name)
        assert words
        assert words[0].islower()
        assert not words.endswith(".")
        assert name in METHODS or words[1:] == spec.summary[1:].removesuffix(".")
    assert method_words("sisa") == METHODS["sisa"]
    assert registry.METHODS.keys() - METHODS.keys(), "nothing shows the registry's words"
    assert method_words("destroy") == METHODS["destroy"]
    assert method_words("none") == ""
