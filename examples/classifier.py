"""Train a small classifier on a run of the embedded model, and test it on prompts kept from it.

    batchgen submit manifests/prompts.parquet --set splits.validation=0.2
    python -m examples.classifier runs/prompts

It learns which colour and which shape a picture shows: two words of its prompt. It is tested with
prompts of the validation split, of which it has seen no picture.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import batchgen

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
SIDE_PX, EPOCHS = 48, 20

# Pictures [B, 3, SIDE_PX, SIDE_PX], their colours and their shapes.
Batch = tuple[Tensor, Tensor, Tensor]


class Loader:
    """Each pass over it is an epoch of a split, shuffled anew."""

    def __init__(self, run: str | PathLike[str], split: str) -> None:
        pictures = batchgen.dataset(run, split=split, decode="torchrgb")
        batches = pictures.to_tuple("jpg", "txt").batched(16)
        self._loader = DataLoader(batches, batch_size=None, num_workers=1, persistent_workers=True)

    def __iter__(self) -> Iterator[Batch]:
        for pictures, prompts in self._loader:  # of one size in a batch, of another in the next
            small = functional.interpolate(pictures, (SIDE_PX, SIDE_PX), mode="area")
            colours, shapes = zip(*map(labels, prompts), strict=True)
            yield small, torch.tensor(colours), torch.tensor(shapes)


def labels(prompt: str) -> tuple[int, int]:
    """The first shape in a prompt and the colour before it, as numbers."""
    words = [word.removesuffix("s") for word in prompt.split()]
    at = next(place for place, word in enumerate(words) if word in SHAPES)
    return COLOURS.index(words[at - 1]), SHAPES.index(words[at])


class Classifier(nn.Module):
    """Logits of the colours, and of the shapes: of these only the contrast to the ground tells."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.shape = _tower(3, len(COLOURS)), _tower(1, len(SHAPES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [B, 9] and shapes [B, 6]."""
        ground = pictures[:, :, :1, :1]  # no shape reaches into the corner
        contrast = (pictures - ground).norm(dim=1, keepdim=True)
        contrast = contrast / contrast.amax((1, 2, 3), keepdim=True)
        return self.colour(pictures), self.shape(contrast)


def _tower(channels: int, classes: int) -> nn.Module:
    """Finds what it looks for wherever it is in the picture."""
    return nn.Sequential(
        nn.Conv2d(channels, 24, 5, padding=2, stride=2),
        nn.ReLU(),
        nn.Conv2d(24, 48, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(48, classes),
    )


def train(batches: Loader, epochs: int = EPOCHS) -> Classifier:
    """A classifier that has seen every picture so many times."""
    torch.manual_seed(0)
    classifier = Classifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), 5e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for pictures, colours, shapes in batches:
            colour, shape = classifier(pictures.flip(-1) if torch.rand(()) < 0.5 else pictures)
            loss = functional.cross_entropy(colour, colours)
            loss = loss + functional.cross_entropy(shape, shapes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        slower.step()
    return classifier


@torch.no_grad()
def test(classifier: Classifier, batches: Loader) -> tuple[float, float, int]:
    """The shares of pictures whose colour and whose shape are right, and how many there were."""
    right_colours = right_shapes = pictures = 0
    for images, colours, shapes in batches:
        colour, shape = classifier(images)
        right_colours += int((colour.argmax(1) == colours).sum())
        right_shapes += int((shape.argmax(1) == shapes).sum())
        pictures += len(images)
    return right_colours / pictures, right_shapes / pictures, pictures


def main(run: str) -> None:
    """Train, and say how well it went."""
    classifier = train(Loader(run, "train"))
    colours, shapes, pictures = test(classifier, Loader(run, "validation"))
    print(f"{pictures} pictures of unseen prompts: colour {colours:.0%}, shape {shapes:.0%} right")


if __name__ == "__main__":
    main(sys.argv[1])
