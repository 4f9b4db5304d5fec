"""The exact methods that train again, or switch off, what has seen the records."""

from lethe.methods.spec import MethodSpec, NoParams, Setting


def _from_slice(setting: Setting, shard: int, first: int) -> float:
    """Passes over a shard's records from slice `first` on.

    A slice trains on the union of the slices up to it, 2e/(R+1) epochs each and at least one, which
    adds up to about e epochs of the shard (Bourtoule et al. 2021, arXiv 1912.03817, section IV).
    """
    records = setting.slice_records[shard]
    epochs = max(1.0, 2 * setting.epochs / (len(records) + 1))
    return epochs * sum(sum(records[: last + 1]) for last in range(first, len(records)))


def _all_shards(setting: Setting) -> float:
    return sum(_from_slice(setting, shard, 0) for shard in range(len(setting.slice_records)))


def _hit_shards(setting: Setting) -> float:
    first: dict[int, int] = {}
    for hit in setting.hits:
        first[hit.shard] = min(hit.first_slice, first.get(hit.shard, hit.first_slice))
    return sum(_from_slice(setting, shard, piece) for shard, piece in first.items())


def _nothing(_: Setting) -> float:
    return 0.0


SPECS: tuple[MethodSpec, ...] = (
    MethodSpec(
        name="adapter_sharding",
        version=1,
        guarantee="exact",
        requires=frozenset({"retain", "checkpoints", "adapters"}),
        params=NoParams,
        record_passes=_nothing,
        evidence=("process",),
        summary="Switches the adapters off that have seen the records, at once; their shards are "
        "trained again later, from the last slice before the records.",
        cost="Nothing is computed before it is off; later as sisa.",
        refused="The model has no adapters, or one shard with one slice.",
        way="switch_off",
        by_default="always",
    ),
    MethodSpec(
        name="sisa",
        version=1,
        guarantee="exact",
        requires=frozenset({"retain", "checkpoints"}),
        params=NoParams,
        record_passes=_hit_shards,
        evidence=("process",),
        summary="Retrains the shards that held the records, from the last checkpoint before them.",
        cost="The hit shards from the first hit slice on; a checkpoint per shard and slice.",
        refused="One shard with one slice, no manifest, or the records cannot be read.",
        way="train",
        by_default="always",
    ),
    MethodSpec(
        name="retrain",
        version=1,
        guarantee="exact",
        requires=frozenset({"retain"}),
        params=NoParams,
        record_passes=_all_shards,
        evidence=("process",),
        summary="Trains again from scratch on what is left.",
        cost="The whole training.",
        refused="The records cannot be read, or no recipe is registered.",
        way="train",
        by_default="always",
    ),
)
