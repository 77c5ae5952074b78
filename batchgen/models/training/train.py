# mypy: disable-error-code="attr-defined,no-untyped-call,no-any-return,operator"
"""Trains the embedded model from nothing, on pictures drawn by `world`, without a GPU.

python -m batchgen.models.training.train --out DIR [--vae-minutes 9] [--minutes 50]
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from batchgen.models.training import flow, folder, parallel, vae, world
from batchgen.models.training.corpus import Corpus
from batchgen.models.training.flow import Painter


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--vae-minutes", type=float, default=9.0)
    parser.add_argument("--minutes", type=float, default=50.0, help="for the flow")
    parser.add_argument("--processes", type=int, default=2, help="one a core")
    parser.add_argument("--scenes", type=int, default=8000, help="per size and process")
    parser.add_argument("--pairs", type=float, default=0.15, help="share of two-coloured pairs")
    parser.add_argument("--vae", type=Path, help="take a trained autoencoder from this folder")
    parser.add_argument("--start", type=Path, help="go on from the weights of this pipeline")
    return parser.parse_args()


def run(rank: int, options: argparse.Namespace) -> None:
    """One process of the training."""
    torch.manual_seed(0)  # the same initial weights in every process
    painter, autoencoder = Painter(), folder.new_vae()
    if options.start:
        autoencoder = flow.load(painter, options.start)
    elif options.vae:
        autoencoder = AutoencoderKL.from_pretrained(options.vae)
    torch.manual_seed(rank + 1)
    if not (options.start or options.vae):
        vae.train(rank, autoencoder, options.vae_minutes)
        vae.calibrate(autoencoder)
    first_seed = world.FIRST_TRAINING_SEED * (rank + 1)
    corpus = Corpus(autoencoder.eval(), first_seed, options.scenes, options.pairs)

    def save(average: Painter) -> None:
        folder.publish(options.out, autoencoder, average.transformer, average.clip, average.t5)

    flow.train(rank, painter, corpus, options.minutes, save)


def main() -> None:
    """Trains in as many processes as were asked for."""
    options = arguments()
    parallel.launch(run, options.processes, options)


if __name__ == "__main__":
    main()
