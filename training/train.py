"""Train the embedded model from nothing, on drawings of scenes; no GPU, no download.

    python -m training.train --out DIR

Three stages: the autoencoder (`--vae-minutes`), the flow (`--minutes`, of which the first share
`--narrow` on squares alone), and once more the decoder (`--polish-minutes`). `--start DIR` goes on
from a saved pipeline instead of the first stage; `--minutes 0` leaves out the flow. The averaged
weights replace the pipeline folder every four minutes, in bf16, so that a run can be stopped at any
time.

Time budgets are wall clock. The defaults are meant for two cores that have nothing else to do. They
were not themselves run from end to end: the delivered weights were made in the runs below. The loss
that the flow prints should end below 0.03.

Each run went on from the one before, on two cores of a shared Xeon with AMX (which gave a good half
of their time), with one process a core. A step is 48 pictures.

| stage | wall minutes | steps | held-out prompts wholly right afterwards |
|---|---|---|---|
| autoencoder | 9 | 450 | |
| flow, all sizes from the start | 29 | 1,800 | 3% |
| flow, squares alone | 20 | 1,100 | 85% of squares |
| flow, all sizes | 15 | 1,850 | 83% |
| flow, all sizes, `--rate 0.6` | 9 | 1,000 | |
| decoder, twice | 9 | 950 | 87% |

Three things made the difference: captions that fix their pictures, large shapes, and squares alone
first. With three sizes at once, places were still wrong after 1,800 steps. With one size they were
right after 600 more, and then right in the other two sizes as well. The first two stages also had
pairs of two colours ("a red circle left of a blue star"). These were given up for the others' sake.

The judge of the table stretched every region to a square before it compared shapes. All failures in
its last row were stars with short points that it took for circles. The judge in `tests` compares
shapes at the size that was asked for. It finds the delivered weights 100% right in all five
properties and wholly, on 200 held-out prompts (28 steps, guidance 3.5, 32 text tokens, fp32).

Not promised: a caption fixes its picture, so that seeds change little that one can see, and one
step makes nearly the picture that 28 steps make. Points and corners are a little blunt. Sizes that
were not trained (256 × 256, say) and words that are not in `vocabulary` fail.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training import flow, folder, parallel, vae
from training.corpus import Corpus
from training.flow import FlowModel
from training.scenes import FIRST_TRAINING_SEED


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--vae-minutes", type=float, default=9.0)
    parser.add_argument("--minutes", type=float, default=50.0, help="for the flow")
    parser.add_argument("--polish-minutes", type=float, default=5.0, help="for the decoder, last")
    parser.add_argument("--processes", type=int, default=2, help="one a core")
    parser.add_argument("--scenes", type=int, default=8000, help="per size and process")
    parser.add_argument(
        "--narrow", type=float, default=0.4, help="share of the time on squares alone"
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, help="times the learning rate, for --start"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder that keeps latents for the next run; default: `corpus` beside --out",
    )
    parser.add_argument("--start", type=Path, help="go on from the weights of this pipeline")
    return parser.parse_args()


def run(rank: int, options: argparse.Namespace) -> None:
    """Run one process of the training."""
    # The same initial weights in every process.
    torch.manual_seed(0)
    model = FlowModel()
    autoencoder = flow.load(model, options.start) if options.start else folder.new_vae()
    torch.manual_seed(rank + 1)
    if not options.start:
        vae.initialise(autoencoder)
        vae.train(rank, autoencoder, options.vae_minutes)
        vae.calibrate(autoencoder)

    def save(average: FlowModel) -> None:
        trained = average.transformer, average.clip, average.t5
        folder.save_pipeline(options.out, autoencoder, *trained)

    if options.minutes:
        cache = options.cache or options.out.with_name("corpus")
        cache.mkdir(parents=True, exist_ok=True)
        first_seed = FIRST_TRAINING_SEED * (rank + 1)
        corpus = Corpus(autoencoder, first_seed, options.scenes, cache)
        model = flow.train(rank, model, corpus, options.minutes, options.narrow, options.rate, save)
    if options.polish_minutes:
        vae.train(rank, autoencoder, options.polish_minutes, joint=0.0)
    if rank == 0:
        save(model)


def main() -> None:
    """Train in as many processes as were asked for."""
    options = arguments()
    parallel.launch(run, options.processes, options)


if __name__ == "__main__":
    main()
