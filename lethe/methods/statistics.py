"""The methods that take records out of what a recipe has stored, without training again."""

from lethe.methods.spec import MethodSpec, NoParams, Setting


def _forget_once(setting: Setting) -> float:
    return float(setting.forget)


def _retain_twice(setting: Setting) -> float:
    # Once for the Hessian, once for the bound.
    return 2.0 * setting.records


SPECS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="closed_form_head",
        version=1,
        guarantee="exact",
        requires=frozenset({"forget", "gram"}),
        params=NoParams,
        record_passes=_forget_once,
        evidence=("process",),
        summary="Subtracts the records from stored integer sums and solves for the weights again.",
        cost="One pass over the forget set and one solve; the sums are stored with the weights.",
        refused="The recipe keeps no sums, or the records to forget cannot be read.",
        way="remove",
        by_default="always",
    ),
    MethodSpec(
        name="newton_removal",
        version=1,
        guarantee="certified",
        requires=frozenset({"forget", "retain", "hessian"}),
        params=NoParams,
        record_passes=_retain_twice,
        evidence=("process",),
        summary="Makes one Newton step towards the optimum without the records; the noise that the "
        "model was trained with hides what is left of them.",
        cost="Two passes over the retain set and one solve per class.",
        refused="The recipe is not convex, the records cannot be read, or the budget is spent; "
        "then the model is trained again.",
        way="remove",
        by_default="always",
    ),
)
