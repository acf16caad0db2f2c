"""What a GHI job would make, said before it runs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pipelines.checkpoint import Checkpoint, native_size
from pipelines.ghi.config import GhiConfig
from pipelines.status import size
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at

if TYPE_CHECKING:
    from pipelines.dataset import Manifest

EXAMPLES: Final = 5
COUNTED: Final = 10_000
"""Prompts that are counted at most: any 10,000 slots in a row are balanced."""
BYTES_PER_PIXEL: Final = {"png": 1.8, "jpeg": 0.4, "webp": 0.3}
"""Rough sizes of sampled pictures, used until shards are there to measure."""


def describe(config: GhiConfig, checkpoint: Checkpoint, manifest: Manifest, out: str, shards: range) -> dict[str, Any]:
    """Return what a job would do: what is there, what is missing, which prompts come, how much it will take to store.

    Raises UserError where `out` holds something that the job could not go on with.
    """
    from pipelines import dataset
    from pipelines.shards import read_markers
    from pipelines.store import Store

    store = Store(out)
    dataset.check_manifest(store, manifest)
    markers = list(read_markers(store, shards))
    standing = dataset.standing(manifest, shards, markers)
    accepted = sum(marker.accepted for marker in markers)
    stored = sum(marker.files["shards"].bytes for marker in markers)
    slots = sum(len(range(*_bounds(manifest, index))) for index in shards)
    return {
        "out": out,
        "identity": manifest.identity_hash[:8],
        "model": f"{checkpoint.name} ({checkpoint.revision[:19]})",
        "slots": slots,
        "shards": len(shards),
        "shards_complete": standing.complete,
        "shards_to_do": len(standing.tasks),
        "accepted": accepted,
        "slots_to_fill": slots - accepted,
        "bytes": round(slots * stored / accepted) if accepted else _guess_bytes(config, checkpoint, slots),
        "prompts": _prompts(config, manifest.n),
    }


def as_text(found: dict[str, Any]) -> str:
    """Return a description as lines to read."""
    prompts = found["prompts"]
    storage = "unknown before the model is here" if found["bytes"] is None else f"about {size(found['bytes'])}"
    lines = [
        f"{found['out']}: {found['slots']:,} slots in {found['shards']:,} shards, identity {found['identity']}",
        f"model     {found['model']}",
        f"there     {found['accepted']:,} accepted, {found['shards_complete']:,} shards complete",
        f"to do     {found['slots_to_fill']:,} slots in {found['shards_to_do']:,} shards",
        f"storage   {storage} of accepted rows",
        f"people    {_shares(prompts['people'])}",
        f"scenes    {_shares(prompts['scenes'])}",
        f"actions   {prompts['actions']:,} different ones in the first {prompts['counted']:,} slots",
        "examples",
        *(f"  {text}" for text in prompts["examples"]),
    ]
    return "\n".join(lines)


def _bounds(manifest: Manifest, index: int) -> tuple[int, int]:
    task = manifest.task(index)
    return task.start, task.stop


def _prompts(config: GhiConfig, n: int) -> dict[str, Any]:
    grammar = load_grammar(config.grammar.dir, config.grammar.scenes)
    counted = min(n, COUNTED)
    prompts = [prompt_at(grammar, config.seed, index) for index in range(counted)]
    return {
        "counted": counted,
        "people": dict(sorted(Counter(str(prompt.num_people) for prompt in prompts).items())),
        "scenes": dict(sorted(Counter(prompt.scene for prompt in prompts).items())),
        "actions": len({prompt.action for prompt in prompts}),
        "examples": [prompt.text for prompt in prompts[:EXAMPLES]],
    }


def _guess_bytes(config: GhiConfig, checkpoint: Checkpoint, slots: int) -> int | None:
    width, height = config.sampler.width, config.sampler.height
    if not (width and height):
        native = native_size(checkpoint)
        if native is None:
            return None
        width, height = width or native[0], height or native[1]
    return round(slots * width * height * BYTES_PER_PIXEL[config.output.format])


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in counts.items())
