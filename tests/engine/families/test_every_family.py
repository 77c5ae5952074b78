"""What every model family passes: a family is an entry of `FAMILIES` in tests/support.

Stock pipelines are the standard, one picture at a time: latents in fp32 differ by at most 1e-5 of
their largest value. Both call the same modules; sums are ordered differently.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from batchgen.engine.build import build_engine
from batchgen.engine.interface import Denoised, Workload
from batchgen.engine.offload.turns import Turns
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.torch_engine import TorchEngine
from batchgen.engine.vae.banded_decoder import decode_in_bands
from batchgen.errors import BatchgenError
from batchgen.manifest import Picture
from batchgen.model import linear_name
from batchgen.model.checkpoint import resolve
from batchgen.model.lora.names import find_linears, split_prefix
from batchgen.planning.memory import estimate_memory
from batchgen.planning.plan import Shape
from batchgen.settings.job import Job, parse_job
from tests.planning.test_memory import bytes_of, parts, peak
from tests.support.graphs import record_graphs, refusals, symbolic_batches
from tests.support.rehearsal import ask, settings, write_prompts
from tests.support.replica_processes import RankProcesses
from tests.support.stock import make_picture, psnr
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_family import TEXT_TOKENS, TinyFamily

RELATIVE = 1e-5
CPU = torch.device("cpu")
Opened = tuple[TinyFamily, Path]


def new_job(folder: Path, **sections: Any) -> Job:
    usual = {
        "model": {"path": str(folder), "max_sequence_length": TEXT_TOKENS},
        "engine": {"device": "cpu"},
    }
    return parse_job(usual | sections, "a test")


def open_engine(folder: Path, work: Workload | None = None, **sections: Any) -> TorchEngine:
    job = new_job(folder, **sections)
    return build_engine(job, resolve(job.model), work=work)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    family = FAMILIES[request.param]
    return family, family.save(tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def engine(tiny: Opened) -> TorchEngine:
    return open_engine(tiny[1])


def group_of(family: TinyFamily, **changes: Any) -> list[Picture]:
    """Pictures of texts of other lengths and of other guidance; one has a negative prompt."""
    group = [
        make_picture(key, steps=family.steps, guidance=scale, **changes)
        for key, scale in enumerate(
            (family.unguided, 4.5, 2.0, 3.0) if family.reads_guidance else (0.0,) * 4
        )
    ]
    true_cfg = {} if family.contrasts else {"true_cfg": 2.5}
    group[1] = replace(group[1], negative_prompt="a blue circle", **true_cfg)
    return group


def longest_prompt(family: TinyFamily, folder: Path) -> str:
    """As many tokens as a prompt may have."""
    return family.word * (TEXT_TOKENS - resolve(new_job(folder).model).token_counter()(""))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest, relative to the largest value."""
    assert one.shape == other.shape
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.slow
def test_latents_and_pixels_equal_stock(tiny: Opened, engine: TorchEngine) -> None:
    family, folder = tiny
    stock = family.open(folder)
    for number, picture in enumerate(group_of(family, width=192, height=112)):
        theirs = family.stock(stock, picture)
        denoised = engine.denoise([picture])
        assert difference(theirs, family.as_stock(engine, denoised, picture)) <= RELATIVE, number
    pixels, _ = engine.decode(denoised)
    images = np.stack([np.asarray(image) for image in family.stock(stock, picture, "pil")])
    assert np.abs(pixels.astype(int) - images).max() <= 1
    latents = engine.family.unpack(denoised.latents, picture.width, picture.height)
    with torch.inference_mode():
        whole = engine.family.vae.decode(latents, return_dict=False)[0]
    assert difference(whole, decode_in_bands(engine.family.vae, latents, Ranks(), 2)) <= RELATIVE


CACHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "multistep": {"policy": "multistep", "tolerance": 0.05},
    "first_block": {"policy": "first_block", "taylor_order": 1},
}


def caching(family: TinyFamily, cache: str) -> dict[str, Any]:
    """A `[cache]` by which a family's small model skips some steps."""
    threshold = {"threshold": family.threshold} if cache == "first_block" else {}
    return CACHES[cache] | threshold


@pytest.mark.slow
def test_bf16_differs_from_stock_by_rounding_alone(tiny: Opened) -> None:
    """bf16 has 8 significant bits: rounding the result alone would leave 77 dB of its range."""
    family, folder = tiny
    engine, picture = open_engine(folder, precision={"linear": "bf16"}), group_of(family)[0]
    theirs = family.stock(family.open(folder, torch.bfloat16), picture).float()
    ours = family.as_stock(engine, engine.denoise([picture]), picture).float()
    assert psnr(theirs, ours) >= 45


@pytest.mark.slow
def test_a_stated_shift_is_a_stock_scheduler_of_that_shift(tiny: Opened) -> None:
    family, folder = tiny
    engine, picture = open_engine(folder, sampling={"shift": 2.2}), group_of(family)[0]
    stock = family.open(folder)
    stock.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=2.2))
    theirs = family.stock(stock, picture)
    assert (
        difference(theirs, family.as_stock(engine, engine.denoise([picture]), picture)) <= RELATIVE
    )


@pytest.mark.slow
def test_planning_counts_the_tokens_that_stock_makes(tiny: Opened) -> None:
    family, folder = tiny
    count, stock = resolve(new_job(folder).model).token_counter(), family.open(folder)
    for prompt in ("", "a red circle", "  red, blué\n <|im_end|> <extra_id_1> é{{ 1 }} "):
        assert count(prompt) == family.stock_tokens(stock, prompt)


@pytest.mark.slow
@pytest.mark.parametrize("cache", CACHES)
def test_a_picture_is_the_same_alone_and_in_a_group(tiny: Opened, cache: str) -> None:
    family, folder = tiny
    engine, group = open_engine(folder, cache=caching(family, cache)), group_of(family)
    together = engine.denoise(group)
    for place, picture in enumerate(group):
        alone = engine.denoise([picture])
        assert psnr(alone.latents[0], together.latents[place]) >= 90
        assert not alone.traces or alone.traces[0].skipped == together.traces[place].skipped
    assert cache == "plain" or any("1" in trace.skipped for trace in together.traces)


def over_ranks(ranks: Ranks, job: Job, group: list[Picture]) -> Denoised:
    """A task: denoise as one rank of a replica."""
    return build_engine(job, resolve(job.model), ranks).denoise(group)


@pytest.fixture(scope="module")
def two() -> Iterator[RankProcesses]:
    with RankProcesses(2) as ranks:
        yield ranks


@pytest.mark.slow
def test_two_ranks_paint_what_one_does(tiny: Opened, two: RankProcesses) -> None:
    family, folder = tiny
    group = group_of(family, width=112, height=112)
    job = new_job(folder, cache=caching(family, "first_block"))
    alone = build_engine(job, resolve(job.model)).denoise(group)
    for layout in (Mesh(ulysses=2), Mesh(ring=2), Mesh(cfg=2)):
        two.connect(layout)
        for denoised in two.run(over_ranks, job, group):
            assert difference(alone.latents, denoised.latents) <= 1e-4
            for ours, theirs in zip(denoised.traces, alone.traces, strict=True):
                assert ours.skipped == theirs.skipped
        two.close()


def held(engine: TorchEngine) -> list[torch.Tensor]:
    """Every tensor of the transformer and its modulator; quantized weights are two each."""
    modules = engine.family.transformer, engine.modulator
    weights = (weight.data for module in modules for weight in module.parameters())
    return [part for weight in weights for part in parts(weight)]


@pytest.mark.slow
def test_all_linears_of_the_blocks_and_no_others_are_quantized(
    tiny: Opened, engine: TorchEngine, tmp_path: Path
) -> None:
    """The second engine reads what the first one wrote, and no weights of the transformer's.

    Weights are compared and not pictures: where in memory a matrix begins can change the last bit
    of a product on a CPU, and so tip a value that is rounded to 8 bits.
    """
    family, folder = tiny
    sections = {"precision": {"linear": "int8", "text": "int8"}}
    sections |= {"run": {"quantized_weights": str(tmp_path)}}
    eight, read = open_engine(folder, **sections), open_engine(folder, **sections)
    assert f" int8/rowx{family.linears} " in eight.identity
    picture = group_of(family)[0]
    plain, coarse, same = (each.denoise([picture]).latents for each in (engine, eight, read))
    for latents in (coarse, same):
        assert 30 <= psnr(plain, latents) <= 70
    for written, found in zip(held(eight), held(read), strict=True):
        assert torch.equal(written, found)


@pytest.mark.slow
def test_compiled_blocks_compute_what_the_others_do(
    tiny: Opened, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Traced, and executed as traced: what the compiler makes of a graph is not of the family."""
    graphs = record_graphs(monkeypatch)
    family, folder = tiny
    group = group_of(family)[:2]
    work = Workload(sizes=((128, 128),), batch=len(group), negative=True)
    sections = {"compile": {"mode": "default"}, "run": {"compile_cache": str(tmp_path)}}
    compiled = open_engine(folder, work, **sections)
    assert compiled.compilation.graphs == 2 * family.kinds
    many = [graph for graph in graphs if symbolic_batches(graph)]
    assert [refusals(graph) for graph in many] == [[]] * family.kinds
    latents = compiled.denoise(group).latents
    assert difference(engine.denoise(group).latents, latents) <= RELATIVE
    assert compiled.compilation.recompilations == 0


@pytest.mark.slow
def test_blocks_that_come_in_turn_compute_the_same_bits(tiny: Opened, engine: TorchEngine) -> None:
    family, folder = tiny
    group, moving = group_of(family), open_engine(folder)
    moving.family.blocks = Turns(moving.family.blocks, CPU).blocks
    assert torch.equal(engine.denoise(group).latents, moving.denoise(group).latents)


@pytest.mark.slow
def test_a_lora_of_every_linear_is_what_a_change_of_the_weights_is(
    tiny: Opened, tmp_path: Path
) -> None:
    """By the names that diffusers and peft write."""
    family, folder = tiny
    stock = family.open(folder)
    generator, matrices = torch.Generator().manual_seed(1), {}
    components = {"transformer": stock.transformer, **family.text_encoders(stock)}
    for component, module in components.items():
        for name, linear in module.named_modules():
            if isinstance(linear, torch.nn.Linear) and family.has_linear(component, name):
                down = torch.randn(2, linear.in_features, generator=generator) / 30
                up = torch.randn(linear.out_features, 2, generator=generator) / 30
                linear.weight.data += 0.5 * up @ down
                matrices[f"{component}.{name}.lora_A.weight"] = down
                matrices[f"{component}.{name}.lora_B.weight"] = up
    path = tmp_path / "lora.safetensors"
    save_file(matrices, path)
    model = {
        "path": str(folder),
        "max_sequence_length": TEXT_TOKENS,
        "lora": [{"path": str(path), "scale": 0.5}],
    }
    engine, picture = open_engine(folder, model=model), group_of(family)[0]
    theirs = family.stock(stock, picture)
    ours = family.as_stock(engine, engine.denoise([picture]), picture)
    assert difference(theirs, ours) <= RELATIVE


def test_the_authors_names_of_linears_are_known(tiny: Opened) -> None:
    """Each stands for diffusers' linears whose rows, stacked, it has."""
    family, folder = tiny
    known = resolve(new_job(folder).model).linears()
    for theirs, ours in family.originals.items():
        for module in (f"diffusion_model.{theirs}", f"lora_unet_{theirs.replace('.', '_')}"):
            component, path = split_prefix(module, {"transformer", "text_encoder"})
            found = find_linears(component, path, known)
            assert found is not None, module
            assert found.names == tuple(linear_name("transformer", name) for name in ours)


@pytest.mark.slow
def test_memory_is_about_what_was_estimated(tiny: Opened) -> None:
    family, folder = tiny
    job = new_job(folder, engine={"device": "cpu", "batch_size": 2})
    checkpoint = resolve(job.model)
    engine = build_engine(job, checkpoint)
    group = [replace(each, width=512, height=512, steps=3) for each in group_of(family)[1:3]]
    shape = Shape(512, 512, 3, True, 2)
    need = estimate_memory(job, checkpoint, [shape], cuda=False)
    assert bytes_of(engine.family.transformer, engine.modulator) == need.transformer
    assert bytes_of(*engine.family.encoders) == need.encoders
    # The engine holds what encodes latents too.
    assert bytes_of(engine.family.vae) == pytest.approx(need.vae, rel=0.05)
    rows = 4 if family.contrasts else 3
    taken = peak(lambda: engine.denoise(group)) * 4 / rows
    assert taken == pytest.approx(need.denoising, rel=0.3)


def attention_flops(q: torch.Size, k: torch.Size, *_: Any, **__: Any) -> int:
    """Scores and weighted values, [R, S, H, E] each, as if no key was padding."""
    return 4 * q.numel() * k[1]


# Attention that the counter does not see into.
OPAQUE = {torch.ops.batchgen.attend: attention_flops}


@pytest.mark.slow
def test_flops_are_those_of_the_blocks(tiny: Opened, engine: TorchEngine) -> None:
    family, folder = tiny
    # Of a prompt that takes all text tokens: others take less.
    picture = replace(group_of(family)[0], steps=1, prompt=longest_prompt(family, folder))
    blocks, flops = list(engine.family.blocks), []

    def counted(block: Any) -> Callable[..., Any]:
        def call(**inputs: Any) -> Any:
            counts = FlopCounterMode(display=False, custom_mapping=OPAQUE)
            with counts as counter, sdpa_kernel(SDPBackend.MATH):
                outputs = block(**inputs)
            flops.append(counter.get_total_flops())
            return outputs

        return call

    engine.family.blocks = [counted(block) for block in blocks]
    try:
        engine.denoise([picture])
    finally:
        engine.family.blocks = blocks
    planned = resolve(new_job(folder).model).flops(128, 128, 1, TEXT_TOKENS, cfg=False)
    # The picture has no guidance, and thereby one row.
    assert planned == pytest.approx(sum(flops) * (2 if family.contrasts else 1), rel=1e-6)


def job_words(folder: Path, **more: object) -> list[str]:
    return settings(
        model__path=folder,
        model__max_sequence_length=TEXT_TOKENS,
        sampling__width=128,
        sampling__height=128,
        **more,
    )


def test_planning_knows_the_family(tiny: Opened, tmp_path: Path) -> None:
    """Tokens are counted as the encoder sees them."""
    family, folder = tiny
    given = job_words(folder, sampling__guidance=4.5 if family.reads_guidance else 0)
    longest = longest_prompt(family, folder)
    fits = write_prompts(tmp_path / "fits.parquet", [longest, "a red circle"])
    assert ask("plan", fits, *given).code == 0
    longer = write_prompts(tmp_path / "longer.parquet", [longest + family.word, "a red circle"])
    refused = ask("plan", longer, *given)
    assert refused.code == 2
    assert f"{TEXT_TOKENS + 1} tokens, the limit is {TEXT_TOKENS}" in refused.err
    asked = ask("plan", fits, *given, *settings(cache__policy="teacache", cache__threshold=0.4))
    assert asked.code == (0 if family.teacache else 2)
    assert family.teacache or "coefficients are published for flux, not for" in asked.err


def test_guidance_that_changes_nothing_is_refused(tiny: Opened, tmp_path: Path) -> None:
    family, folder = tiny
    prompts = write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    wrong = {"sampling__true_cfg": 4.0} if family.reads_guidance else {"sampling__guidance": 4.0}
    refused = ask("plan", prompts, *job_words(folder, **wrong))
    assert refused.code == 2
    assert f"{next(iter(wrong)).removeprefix('sampling__')}" in refused.err


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_broken_folder_is_refused(tiny: Opened, tmp_path: Path) -> None:
    family, folder = tiny
    copy = shutil.copytree(folder, tmp_path / "copy")
    for file, changes, told in family.broken:
        whole = (copy / file).read_bytes()
        if changes:
            change_json(copy / file, **changes)
        else:
            (copy / file).unlink()
        with pytest.raises(BatchgenError, match=told):
            resolve(new_job(copy).model)
        (copy / file).write_bytes(whole)
    assert resolve(new_job(copy).model)
