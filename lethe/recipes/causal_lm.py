"""What a causal language model is made from."""

from lethe.methods.spec import Need
from lethe.recipes.spec import RecipeSpec
from lethe.recipes.transformer import TransformerParams


class CausalLmParams(TransformerParams):
    """What a causal language model is made from: nothing beyond what any transformer is."""


def _offers(params: CausalLmParams) -> frozenset[Need]:
    trained: frozenset[Need] = frozenset({"gradients", "checkpoints", "layers", "text"})
    return trained if params.lora is None else trained | {"adapters"}


SPEC = RecipeSpec(
    name="causal_lm",
    version=2,
    params=CausalLmParams,
    offers=_offers,
    implementation="workers.recipes.causal_lm:make_causal_lm",
)
