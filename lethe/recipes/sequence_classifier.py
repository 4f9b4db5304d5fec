"""What a classifier of texts is made from."""

from pydantic import Field

from lethe.methods.spec import Need
from lethe.recipes.spec import RecipeSpec
from lethe.recipes.transformer import TransformerParams


class SequenceClassifierParams(TransformerParams):
    """What a classifier of texts is made from.

    Attributes:
        classes: the label column holds a class from 0 to classes - 1.
        lora: adapters; the head is trained beside them.
    """

    label: str
    classes: int = Field(ge=2, le=100_000)


def _offers(params: SequenceClassifierParams) -> frozenset[Need]:
    # No "layers": a layer speaks of each token, a prediction of the whole text.
    trained: frozenset[Need] = frozenset({"gradients", "checkpoints"})
    return trained if params.lora is None else trained | {"adapters"}


SPEC = RecipeSpec(
    name="sequence_classifier",
    version=1,
    params=SequenceClassifierParams,
    offers=_offers,
    implementation="workers.recipes.sequence_classifier:make_sequence_classifier",
)
