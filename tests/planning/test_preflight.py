"""What a job asks for and cannot have is told when it is planned, all of it at once."""

import re
from contextlib import nullcontext

import pytest

from batchgen.errors import JobError
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.planning.hardware import UNKNOWN, Hardware
from batchgen.planning.memory import estimate_memory
from batchgen.planning.memory_fit import describe_memory
from batchgen.planning.planner import dry_run
from batchgen.planning.preflight import refuse_impossible, refuse_unfit
from batchgen.settings.job import RunSettings, load_job, parse_job
from tests.support.full_size import write_full_size
from tests.support.rehearsal import write_prompts

CPU = Hardware(False, "the CPU", 10**12, None, ())
A100 = Hardware(True, "A100", 42_949_672_960, (8, 0), ("0",))
T4 = Hardware(True, "T4", 15_000_000_000, (7, 5), ("0",))
H100 = Hardware(True, "H100", 85_520_809_984, (9, 0), ("0", "1"))

PER_TENSOR = {"linear": "fp8", "granularity": "tensor"}
MOVING_LAYERS = {"engine": {"offload": "layers"}, "compile": {"mode": "default"}}


def refuse(hardware=UNKNOWN, **sections):
    job = parse_job({"model": {"path": "tiny"}, **sections}, "a test")
    refuse_impossible(job, resolve(job.model), hardware)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"parallel": {"cp": 4}, "cache": {"policy": "first_block", "blocks": 5}},
        {"parallel": {"cp": 6, "ulysses": 2, "ring": 3}},
        {"parallel": {"cp": 2, "ulysses": 2, "cfg": 2}},
        {"precision": PER_TENSOR, "engine": {"batch_size": 1}},
        {"precision": PER_TENSOR | {"force": True}},
    ],
)
def test_what_can_be_had_passes(sections):
    refuse(**sections)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"parallel": {"cp": 3, "ulysses": 3}}, "4 % 3 = 1"),
        ({"parallel": {"cp": 4, "ulysses": 2, "ring": 3}}, "2 \\* 3 = 6, but cp = 4"),
        ({"cache": {"policy": "first_block", "blocks": 6}}, "blocks = 6: the model has 6 blocks"),
        ({"cache": {"policy": "schedule"}}, "needs skip"),
        ({"precision": PER_TENSOR}, "groups of 8 pictures"),
        ({"precision": PER_TENSOR, "parallel": {"cfg": 2}}, "and cfg = 2 halves"),
        (MOVING_LAYERS, "layers that move cannot be compiled"),
    ],
)
def test_what_cannot_be_had_is_told(sections, told):
    with pytest.raises(JobError, match=told):
        refuse(**sections)


def test_everything_is_told_at_once():
    with pytest.raises(JobError, match=r"(?s)4 % 3.*needs skip"):
        refuse(parallel={"cp": 3, "ulysses": 3}, cache={"policy": "schedule"})


def test_test_cards_need_nothing():
    cards = {"engine": {"kind": "pattern"}, "parallel": {"cp": 7, "ulysses": 3}}
    refuse_impossible(parse_job(cards, "a test"), None)


FLASH = {"attention": "flash"}


@pytest.mark.parametrize(
    ("hardware", "sections", "told"),
    [
        (
            A100,
            {"precision": {"linear": "fp8"}},
            r"compute capability 8\.0: FP8 products need 8\.9.*precision\.linear=int8",
        ),
        (
            CPU,
            {"precision": PER_TENSOR, "engine": {"batch_size": 1}},
            "on a CPU: .* reference kern",
        ),
        (UNKNOWN, {"precision": PER_TENSOR | {"linear": "int8"}}, "int8 is scaled per row only"),
        (A100, {"parallel": {"cp": 2}}, "cp = 2: this machine has 1 GPU; --set parallel.cp=1"),
        (
            A100,
            {"parallel": {"cfg": 2}},
            r"cp \* parallel.cfg = 1 \* 2 = 2: .* 1 GPU; .*cp=1 --set parallel.cfg=1",
        ),
        (H100, {"parallel": {"cfg": 2, "cp": 2}}, r"2 \* 2 = 4: .* has 2 GPUs; .*parallel.cp=1$"),
        (CPU, {"engine": {"offload": "text"}}, '"text" on the CPU: there is no device to leave'),
        (CPU, {"engine": {"attention": "cudnn"}}, '"cudnn" on the CPU: it needs a CUDA device'),
        (
            A100,
            {"precision": {"linear": "fp32"}, "engine": FLASH},
            r'"flash" on A100 with precision\.linear = "fp32"',
        ),
        (
            T4,
            {"engine": FLASH},
            r'"flash" on T4: fast kernels need compute capability 8\.0.*engine\.attention=math',
        ),
        (A100, {"engine": {"attention": "fa3"}}, "fa3.* on A100: it needs a Hopper card"),
    ],
)
def test_what_the_device_lacks_is_told(hardware, sections, told):
    with pytest.raises(JobError, match=told):
        refuse(hardware, **sections)


@pytest.mark.parametrize("known", [UNKNOWN, Hardware(cuda=True)])
def test_a_device_that_is_not_known_is_refused_nothing(known):
    refuse(known, precision={"linear": "fp8"}, engine={"attention": "fa3", "offload": "text"})


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return write_full_size(tmp_path_factory.mktemp("feasible") / "flux-dev")


@pytest.fixture
def plan(flux, prompts):
    """Plans a job of FLUX.1-dev at 1024 px."""
    size = ["sampling.width=1024", "sampling.height=1024", "model.max_sequence_length=512"]

    def run(*settings):
        job = load_job(None, [f"model.path={flux}", *size, *settings])
        checkpoint = Checkpoint(flux, "flux", {})
        return job, checkpoint, dry_run([prompts], job, checkpoint)

    return run


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("feasible") / "prompts.parquet", ["a cat"] * 64)


def test_a_job_that_cannot_fit_is_refused_with_numbers_and_what_would_help(plan):
    with pytest.raises(JobError) as refusal:
        refuse_unfit(*plan("engine.batch_size=32"), A100)
    told = str(refusal.value).splitlines()
    assert told[0].startswith("memory: about 56.6 GB a rank while denoising, by estimate: ")
    assert "transformer 23.8 GB, text encoders 9.8 GB, VAE 0.2 GB" in told[0]
    assert "A100 has 42.9 GB" in told[0]
    assert told[1:] == [
        "What would help, what costs least first:",
        "  --set engine.offload=text saves 9.8 GB",
        "  --set engine.offload=model saves 9.8 GB",
        "  --set engine.batch_size=10 saves 13.8 GB, then it fits",
        "  --set precision.text=fp8 saves 4.6 GB",
        "  --set precision.linear=int8 saves 8.6 GB",
        "  --set engine.offload=layers saves 26.1 GB, then it fits",
    ]


def test_what_is_said_to_help_does(plan):
    with pytest.raises(JobError) as refusal:
        refuse_unfit(*plan("engine.batch_size=32"), A100)
    cures = re.findall(r"--set (\S+) saves .*then it fits", str(refusal.value))
    assert len(cures) == 2
    for cure in cures:
        job, checkpoint, planned = plan("engine.batch_size=32", cure)
        assert estimate_memory(job, checkpoint, planned.shapes, cuda=True).total <= A100.memory
        refuse_unfit(job, checkpoint, planned, A100)


def test_where_nothing_helps_enough_it_says_how_much_is_missing(plan):
    told = r"Even so 0\.3 GB are missing while encoding text: it needs devices with more memory"
    with pytest.raises(JobError, match=told):
        refuse_unfit(*plan("engine.batch_size=1"), T4)


def test_only_what_cannot_fit_is_refused(plan):
    job, checkpoint, planned = planning = plan("engine.batch_size=8")
    least = estimate_memory(job, checkpoint, planned.shapes, cuda=True).least
    with pytest.raises(JobError, match="a card has"):
        refuse_unfit(*planning, Hardware(True, "a card", least - 1, (9, 0), ("0",)))
    for device, told in (
        (Hardware(True, "a card", least, (9, 0), ("0",)), ", which may not be enough"),
        (UNKNOWN, "what a device has is not known"),
        (H100, "H100 has 85.5 GB"),
    ):
        refuse_unfit(*planning, device)
        assert describe_memory(*planning, device).endswith(told)


def test_on_a_cpu_fewer_workers_help(plan):
    machine = Hardware(False, "the CPU", 90 * 10**9, None, ())
    cure = r"--set run\.workers=1 saves 78\.8 GB, then it fits"
    told = rf"the CPU has 11\.2 GB for each rank.*\n.*\n  {cure}"
    with pytest.raises(JobError, match=told):
        refuse_unfit(*plan("run.workers=8"), machine)
    refuse_unfit(*plan("run.workers=1"), machine)


@pytest.mark.parametrize(
    ("cache", "told"),
    [
        (
            ("cache.policy=schedule", "cache.skip=[28, 40]"),
            r"cache\.skip = \[28, 40\]: the planned pictures have at most 28 steps",
        ),
        (
            ("cache.policy=first_block", "cache.warmup=28"),
            r"cache\.warmup = 28: .* at most 28 steps, so none would be skipped",
        ),
    ],
    ids=["schedule", "warmup"],
)
def test_a_cache_that_could_not_skip_anything_is_refused(plan, cache, told):
    with pytest.raises(JobError, match=told):
        refuse_unfit(*plan("sampling.steps=28", *cache), UNKNOWN)
    refuse_unfit(*plan("sampling.steps=29", *cache), UNKNOWN)


def test_an_audit_that_chooses_none_of_a_small_run_is_refused_with_a_fraction_that_does(plan):
    cached = "cache.policy=multistep"
    none = r"audit\.fraction = 0\.001: it chooses none of 64 pictures\. --set audit\.fraction="
    with pytest.raises(JobError, match=none) as refusal:
        refuse_unfit(*plan(cached, "audit.fraction=0.001"), UNKNOWN)
    enough = re.search(r"--set (audit\.fraction=[\d.]+) chooses one", str(refusal.value))[1]
    job, checkpoint, planned = plan(cached, enough)
    refuse_unfit(job, checkpoint, planned, UNKNOWN)
    assert sum(job.audits(key) for key in range(64)) == 1


@pytest.mark.parametrize("policy", ["first_block", "teacache", "adacache", "replay", "multistep"])
def test_a_cache_has_nothing_to_skip_in_steps_that_are_always_computed(plan, policy):
    always = 2 if policy == "multistep" else 1
    for steps, refused in ((always, True), (always + 1, False)):
        job, checkpoint, planned = plan(f"sampling.steps={steps}")
        cache = job.cache.model_copy(update={"policy": policy})
        planning = job.model_copy(update={"cache": cache}), checkpoint, planned
        told = (
            rf'cache\.policy = "{policy}": the planned pictures have at most {always} step.*=none'
        )
        with pytest.raises(JobError, match=told) if refused else nullcontext():
            refuse_unfit(*planning, UNKNOWN)
        cache.model_fields_set.clear()
        refuse_unfit(*planning, UNKNOWN)  # the job of a run that an older version planned


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ("sampling.width=16", "sampling.height=16", "parallel.cp=2"),
            r"cp = 2: a picture of 16×16 px has 1 token, and each rank needs one\. .*cp=1",
        ),
        (
            ("sampling.width=32", "sampling.height=16", "parallel.cp=3", "parallel.ring=3"),
            r"cp = 3: a picture of 32×16 px has 2 tokens",
        ),
        (
            ("model.max_sequence_length=8", "parallel.cp=12"),
            r"cp = 12: a prompt has 8 tokens, and each rank needs one\. --set parallel\.cp=8",
        ),
    ],
)
def test_fewer_tokens_than_ranks_are_refused(plan, settings, told):
    with pytest.raises(JobError, match=told):
        refuse_unfit(*plan(*settings), UNKNOWN)


def test_a_token_for_each_rank_is_enough(plan):
    refuse_unfit(*plan("sampling.width=32", "sampling.height=16", "parallel.cp=2"), UNKNOWN)


def test_the_embedded_model_is_asked_for_no_size_of_which_it_knows_nothing(prompts):
    job = load_job(None, ["sampling.width=2048", "sampling.height=2048"])
    told = r"sampling\.width: 2048; expected px, .* to 1024 for this model\nsampling\.height: 2048"
    with pytest.raises(JobError, match=told):
        dry_run([prompts], job, resolve(job.model))


@pytest.mark.parametrize(
    ("hardware", "settings", "refused"),
    [
        (CPU, [], 'with compile.mode = "auto" on the CPU'),
        (H100, [], None),
        (UNKNOWN, [], None),
        (CPU, ["compile.mode=default"], None),
        (H100, ["compile.mode=none"], 'with compile.mode = "none" nothing is compiled'),
        (H100, ["engine.offload=layers"], 'on H100 with engine.offload = "layers"'),
    ],
)
def test_a_folder_for_compiled_code_is_refused_where_nothing_is_compiled(
    hardware, settings, refused
):
    job = load_job(None, ["run.compile_cache=there", *settings])
    with pytest.raises(JobError, match=refused) if refused else nullcontext():
        refuse_impossible(job, resolve(job.model), hardware)
    unwritten = job.model_copy(update={"run": RunSettings.model_construct(compile_cache="there")})
    unwritten.run.model_fields_set.clear()
    refuse_impossible(unwritten, resolve(job.model), hardware)


def test_int8_on_cuda_refuses_too_few_tokens_a_rank(plan):
    small = ("precision.linear=int8", "sampling.width=64", "sampling.height=80")
    refuse_unfit(*plan(*small), H100)
    with pytest.raises(JobError, match=r"int8.* with 10 text or image tokens a rank"):
        refuse_unfit(*plan(*small, "parallel.cp=2"), H100)
    refuse_unfit(*plan(*small, "parallel.cp=2"), CPU)
