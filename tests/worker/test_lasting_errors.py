"""An error of the start that another start would meet again ends the worker, others are deaths."""

import errno
import json
from pathlib import Path

import pytest

from batchgen.errors import CannotStart, DeviceFault, ModelError
from batchgen.worker.lasting_errors import lasting_errors

LASTING = [
    ImportError("libcudart.so.13: cannot open shared object file"),
    OSError("Can't load tokenizer for 'model'"),  # as transformers says it, without a number
    FileNotFoundError(errno.ENOENT, "No such file or directory", "merges.txt"),
    ValueError("Cannot instantiate this tokenizer from a slow version"),
    KeyError("num_train_timesteps"),
    NotImplementedError("EulerDiscreteScheduler"),
    json.JSONDecodeError("Expecting value", "", 0),
    Exception("data did not match any variant of untagged enum ModelWrapper"),  # of tokenizers
]
PASSING = [
    RuntimeError("CUDA error: out of memory"),
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    ConnectionResetError("Connection reset by peer"),
    TimeoutError("timed out"),
    DeviceFault("an illegal memory access"),
]


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_would_come_again_ends_the_worker_in_good_order(error: Exception) -> None:
    with pytest.raises(CannotStart) as told, lasting_errors("the engine cannot be made"):
        raise error
    message = f"the engine cannot be made: {type(error).__name__}: {error}"
    assert str(told.value) == message


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_a_death(error: Exception) -> None:
    with pytest.raises(type(error)), lasting_errors("the engine cannot be made"):
        raise error


def test_the_users_own_errors_stay_as_they_are() -> None:
    with pytest.raises(ModelError, match=r"^no weights$"), lasting_errors("the engine"):
        raise ModelError("no weights")


def test_a_replica_that_fails_by_such_an_error_ends_likewise() -> None:
    with pytest.raises(CannotStart, match="ImportError: no torchao"), lasting_errors("the engine"):
        raise DeviceFault("rank 0 of 2: the replica has failed") from ImportError("no torchao")
    with pytest.raises(DeviceFault), lasting_errors("the engine"):
        raise DeviceFault("the replica has failed") from RuntimeError("NCCL error")


def test_signals_pass(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), lasting_errors("the engine"):
        raise SystemExit(0)
