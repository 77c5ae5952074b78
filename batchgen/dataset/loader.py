"""A run as a webdataset pipeline, for training with PyTorch.

An epoch is every chosen picture once, over all processes and their workers. It has an order of its
tars, drawn from seed and epoch alike everywhere; each process and each of its workers reads an
equal stretch of it. So none is without pictures where there are fewer tars than workers, and the
numbers of two processes differ by one picture at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from webdataset import FluidWrapper
from webdataset.autodecode import imagespecs
from webdataset.filters import default_collation_fn
from webdataset.filters import shuffle as mixed
from webdataset.utils import pytorch_worker_info

from batchgen.dataset.chosen import Chosen, Where, choose
from batchgen.dataset.passes import Passes
from batchgen.dataset.samples import Sample, read_samples
from batchgen.dataset.splits import bounds_of
from batchgen.errors import InputError
from batchgen.shard import key_text

# What is decoded. webdataset would unpickle a stranger's `KEY.pyd`.
_KINDS = ("jpg", "png", "webp", "txt", "json")

Collate = Callable[[list[Any]], Any]


def dataset(
    run: str | PathLike[str],
    *,
    split: str | None = None,
    where: Where | None = None,
    decode: str | None = "pil",
    shuffle: int = 1000,
    seed: int = 0,
    epoch: int = 0,
) -> Pictures:
    """The pictures of a run as a webdataset pipeline, to be given to a `torch` DataLoader.

    A sample is a dict: `jpg` (or `png`, `webp`) the picture, `txt` its prompt, `json` what made it,
    `__key__` its key in the records. The pipeline has webdataset's methods: `to_tuple`, `map`, ….
    Of a run that goes on, it has what is published when it is made.

    :param run: a run, its folder, or a published dataset without `.batchgen`.
    :param split: "train", "validation" or "test" of `[splits]`, "all" for every picture; None if
        nothing is held out.
    :param where: only pictures whose record fulfils it: a pyarrow expression, as
        `pc.field("path") == "normal"` or `pc.field("extra", "score") > 0.5`, or a function of the
        record as a dict.
    :param decode: as webdataset's `decode`: "pil", "torchrgb", "rgb8", …; None for bytes.
    :param shuffle: pictures that a worker mixes in memory; 0 for all in order, the tars too.
    :param seed: of the order. The same seed and epoch give the same order.
    :param epoch: the first one. Each pass over the pipeline is the next.
    :raises InputError: there is no such split or picture, or `where` is no condition over records.
    :raises DamagedRun: records or tars are damaged.
    """
    if decode is not None and decode not in imagespecs:
        raise InputError(f'decode="{decode}": expected None or one of {", ".join(imagespecs)}')
    root = Path(run)
    chosen = choose(root, bounds_of(root, split), where)
    if not chosen:
        raise InputError(f"{root}: no published picture is in this split and fulfils `where`")
    pictures = Pictures(_Epochs(chosen, shuffle, seed, epoch))
    return pictures if decode is None else pictures.decode(decode, only=_KINDS)


class Pictures(FluidWrapper):  # type: ignore[misc]
    """Samples of a run, as a pipeline with webdataset's methods."""

    @property
    def pictures(self) -> int:
        """How many pictures an epoch has, over all processes."""
        return int(self.pipeline[0].pictures)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next pass is. Each pass is the next one without it."""
        self.pipeline[0].passes.set_next(epoch)

    def batched(
        self,
        batchsize: int,
        collation_fn: Collate | None = default_collation_fn,
        partial: bool = True,
    ) -> Pictures:
        """Batches of pictures of one size, as soon as there are enough of a size.

        :param collation_fn: makes a batch of a list of samples; None for lists.
        :param partial: whether an epoch ends with smaller batches, one a size, of what is left.
        """
        batches: Pictures = self.compose(_Batches(batchsize, collation_fn, partial))
        return batches


class _Epochs(IterableDataset[Sample]):
    """Undecoded samples, each pass an epoch."""

    def __init__(self, chosen: Sequence[Chosen], mix: int, seed: int, epoch: int) -> None:
        self.chosen, self.mix, self.seed = chosen, mix, seed
        self.pictures = sum(len(one.keys) for one in chosen)
        self.passes = Passes(epoch)
        # Of the process whose workers read this.
        self._rank_of_owner = (0, 1)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets that is started anew: such a one is in no process group itself."""
        return self.__dict__ | {"_rank_of_owner": pytorch_worker_info()[:2]}

    def __iter__(self) -> Iterator[Sample]:
        rank, ranks, worker, workers = pytorch_worker_info()
        if ranks == 1 and get_worker_info():
            rank, ranks = self._rank_of_owner
        if self.pictures < ranks:
            raise InputError(f"{self.pictures} pictures are too few for {ranks} processes")
        epoch = self.passes.begin()
        whole = range(self.pictures)
        stretch = _part(_part(whole, rank, ranks), worker, workers)
        if not self.mix:
            return _read(self.chosen, stretch)
        order = _chance(self.seed, epoch).sample(self.chosen, len(self.chosen))
        mix = mixed(self.mix, rng=_chance(self.seed, epoch, rank, worker))
        shuffled: Iterator[Sample] = mix(_read(order, stretch))
        return shuffled


def _chance(*numbers: int) -> Random:
    return Random(" ".join(map(str, numbers)))  # noqa: S311


def _part(whole: range, number: int, parts: int) -> range:
    """One of as many equal parts of a range."""
    return whole[len(whole) * number // parts : len(whole) * (number + 1) // parts]


def _read(order: Sequence[Chosen], stretch: range) -> Iterator[Sample]:
    """The samples of a stretch of all pictures, in this order of their tars."""
    begin = 0
    for tar, keys in order:
        end = begin + len(keys)
        ours = keys[max(stretch.start - begin, 0) : max(stretch.stop - begin, 0)]
        if len(ours):
            yield from read_samples(tar, {key_text(key) for key in ours.tolist()})
        begin = end


class _Batches:
    """A stage of a pipeline: samples of one size → batches."""

    def __init__(self, size: int, collate: Collate | None, partial: bool) -> None:
        self.size, self.collate, self.partial = size, collate or list, partial

    def __call__(self, samples: Iterator[Any]) -> Iterator[Any]:
        waiting: defaultdict[tuple[object, ...], list[Any]] = defaultdict(list)
        for sample in samples:
            size = _sizes(sample)
            waiting[size].append(sample)
            if len(waiting[size]) == self.size:
                yield self.collate(waiting.pop(size))
        if self.partial:
            yield from map(self.collate, waiting.values())


def _sizes(sample: Any) -> tuple[object, ...]:
    """Sizes of the pictures and tensors in a sample, which must be equal in a batch."""
    values = sample.values() if isinstance(sample, dict) else sample
    many = values if isinstance(sample, dict | tuple | list) else (sample,)
    return tuple(
        one.size if isinstance(one, Image.Image) else getattr(one, "shape", None) for one in many
    )
