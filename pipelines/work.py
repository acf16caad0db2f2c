"""What a source writes for the engine: a function from a shard's context to its rows. No Ray in here.

    def make_work() -> Work:                      # picklable; runs once on each worker: load models here
        sampler = ...
        def work(context: ShardContext) -> ShardResult:
            ...
            for live in context.rounds(keys_of_batch):
                # run the full batch, with padding in place of every row whose key is not in `live`
            return ShardResult(...)
        return work

The result must be a pure function of the shard's index and the identity config: no times, hosts or worker counts in it.
Then shards are byte-identical for any number of workers and however often the job was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines import record
from pipelines.record import LedgerRow, Rejected, Sample

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to make: the slots (or candidates) `start` … `stop - 1` of the dataset.

    index: the shard's number, its file name in eight digits.
    max_attempts: attempts a slot may have.
    extend: the shard is on disk already but shorter than now asked (n or max_attempts grew); the worker then finds
        its rows in `ShardContext.previous`.
    quarantined: keys that killed their process; never run them, write a ledger row
        (`record.WORKER_STAGE`, `record.KILLED_WORKER`) in their place.
    isolate: keys of a batch that died three times, to be run one at a time to find the one that kills.
    suspects: those of them whose process died; they run last, so that the others show that the worker itself is sound.
    """

    index: int
    start: int
    stop: int
    max_attempts: int
    extend: bool = False
    quarantined: frozenset[str] = frozenset()
    isolate: frozenset[str] = frozenset()
    suspects: frozenset[str] = frozenset()


@dataclass(slots=True)
class ShardResult:
    """A shard's rows, each list in canonical order (by slot, then attempt), and what making them took.

    rejected: leave it empty where the config says `keep_rejected = false`.
    ledger and rejected must follow from the slots alone: keep attempts below the accepted one, drop surplus attempts
    above it, so that a shard that was grown equals one made at once.
    seconds: wall-clock seconds by stage; counts: whatever is worth summing (`sampled`, `detected` …). Both are of this
        run alone (a grown shard's are added up), and go to `done/` and the report, never into Parquet.
    short: keys of the slots that could not be filled.
    max_attempts: tries that each short slot has had, where those are fewer than the task allows (`regate` knows only
        what the other dataset has tried): the shard can be grown.
    follows: the sha256 of what a shard was made from, where that is another shard and may change.
    """

    accepted: list[Sample] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    ledger: list[LedgerRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)
    max_attempts: int | None = None
    follows: str = ""

    @property
    def totals(self) -> tuple[int, int]:
        """How many candidates were accepted and how many were not."""
        return len(self.accepted), len(self.ledger)

    def tables(self) -> dict[str, pa.Table]:
        """What is written, by folder, in the order in which it is committed."""
        return {
            "shards": record.samples_to_table(self.accepted),
            "rejected": record.rejected_to_table(self.rejected),
            "ledger": record.ledger_to_table(self.ledger),
        }


@dataclass(slots=True)
class ColumnResult:
    """Columns for the rows of a shard that is there already: `key` and the new ones, in the shard's order."""

    table: pa.Table
    follows: str
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    short: list[str] = field(default_factory=list)
    max_attempts: int | None = None

    @property
    def totals(self) -> tuple[int, int]:
        """How many rows there are; none is turned down."""
        return self.table.num_rows, 0

    def tables(self) -> dict[str, pa.Table]:
        """The one table, which lies in the dataset's own folder."""
        return {"": self.table}


class ShardCancelledError(Exception):
    """The driver is gone or has given the shard to someone else: drop it."""


class ShardContext:
    """A shard's task, what is on disk of it already, and the way to say which rows run now.

    `ShardContext(task)` alone serves tests and plain loops: it leaves no breadcrumbs and has no lease to lose.

    previous: the shard's accepted, rejected and ledger rows on disk when `task.extend`; everything they settled must be
        carried over unchanged and not be run again. None for a new shard (also when the files on disk do not match
        their done marker: then everything is made anew).
    """

    def __init__(
        self,
        task: ShardTask,
        previous: ShardResult | None = None,
        leave_breadcrumb: Callable[[Sequence[str], int], None] = lambda keys, rounds: None,
        check_lease: Callable[[], None] = lambda: None,
    ) -> None:
        self.task = task
        self.previous = previous
        self._leave_breadcrumb = leave_breadcrumb
        self._check_lease = check_lease
        self._rounds = 0

    def rounds(self, keys: Sequence[str], in_flight: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
        """Yield the keys to run now, so that one process-killing row can be told from its neighbours.

        keys: one a row of the batch, in order, unique within the shard's run: what is lost when the row kills its
            process. GHI's are `<sample key>#<attempt>`: an attempt is lost, the slot goes on to its next.
        in_flight: keys of earlier rounds whose results are not back yet, where stages overlap. While
            `self.isolating` is true the caller must finish each round before it asks for the next.

        Mostly yields `keys` once. Quarantined keys are left out; keys to isolate come one at a time. The caller runs
        every round at the full batch size, with padding in place of the rows not named, and throws the padding away.
        A breadcrumb is left before each round; raises ShardCancelledError when the lease is lost.
        """
        live = tuple(key for key in keys if key not in self.task.quarantined)
        alone = [(key,) for key in live if key in self.task.isolate]
        alone.sort(key=lambda group: group[0] in self.task.suspects)
        together = tuple(key for key in live if key not in self.task.isolate)
        for group in [together, *alone] if together else alone:
            self.breadcrumb([*in_flight, *group])
            yield group

    @property
    def isolating(self) -> bool:
        """True while a row that kills its process is being looked for: rounds must not overlap."""
        return bool(self.task.isolate)

    def breadcrumb(self, keys: Sequence[str]) -> None:
        """Note the keys that run from here on where they survive this process; see `rounds`, which calls it."""
        self.check()
        self._leave_breadcrumb(keys, self._rounds)
        self._rounds += 1

    def check(self) -> None:
        """Raise ShardCancelledError when the driver's lease is lost: this worker is an orphan."""
        self._check_lease()


Result = ShardResult | ColumnResult

Work = Callable[[ShardContext], Result]
"""Makes one shard. Raising fails the shard, not the job."""

MakeWork = Callable[[], Work]
"""Picklable; called once on each worker, after its thread counts are set. Models are loaded here."""
