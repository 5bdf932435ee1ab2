"""What an engine is started with, and when that changes."""

import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from kubetune.api.adapterset import Engine
from kubetune.desired.adapterset import PASS_ON_SIGTERM
from kubetune.desired.adapterset_engine import (
    EngineLimits,
    changes_config,
    engine_args,
    engine_env,
    engine_limits,
    on_gpu,
    roll_reason,
    running_limits,
)

RUNNING = EngineLimits(max_loras=2, max_lora_rank=32, claims=("models",))


def limits(running: EngineLimits | None = None, **changes: Any) -> EngineLimits:
    engine = Engine.model_validate(changes.pop("engine", {}))
    given: dict[str, Any] = {
        "adapters": 1,
        "ranks": [],
        "needed": ["models"],
        "existing": ["models"],
        **changes,
    }
    return engine_limits(engine, running=running, **given)


@pytest.mark.parametrize(
    ("ranks", "expected"), [([], 16), ([8], 16), ([16, 8], 16), ([17], 32), ([65], 128), ([512], 512)]
)
def test_the_rank_is_the_highest_known_rounded_up_to_what_vllm_takes(ranks: list[int], expected: int):
    assert limits(ranks=ranks).max_lora_rank == expected


def test_a_running_engine_keeps_its_room_until_it_is_too_small():
    assert limits(RUNNING, ranks=[8]).max_lora_rank == 32
    assert limits(RUNNING, ranks=[64]).max_lora_rank == 64
    assert limits(RUNNING, ranks=[64], engine={"maxLoraRank": 16}).max_lora_rank == 16


def test_adapters_that_come_and_go_do_not_restart_engines():
    assert [limits(adapters=n).max_loras for n in (0, 1, 2, 5, 8, 100)] == [2, 2, 2, 5, 8, 8]
    assert limits(RUNNING, adapters=100).max_loras == 2
    assert limits(RUNNING, engine={"maxLoras": 64}).max_loras == 64


def test_claims_are_added_when_needed_and_dropped_only_when_they_are_gone():
    assert limits(RUNNING, needed=["models", "more"], existing=["models", "more"]).claims == (
        "models",
        "more",
    )
    assert limits(RUNNING, needed=["models", "gone"]).claims == ("models",)
    mounted = EngineLimits(2, 16, ("models", "unused"))
    assert limits(mounted, existing=["models", "unused"]).claims == ("models", "unused")
    assert limits(mounted, existing=["models"]).claims == ("models",)
    assert limits(mounted, needed=["models", "unused"], existing=["models"]).claims == ("models", "unused")


def test_our_arguments_come_after_the_users():
    engine = Engine(args=["--max-model-len=256"])
    args = engine_args(engine, RUNNING, base_name="base", base_path="/mnt/pvc/models/base")
    assert args == [
        "--enforce-eager", "--max-model-len=256", "--host=127.0.0.1", "--port=8100",
        "--model=/mnt/pvc/models/base", "--served-model-name=base", "--enable-lora",
        "--trust-request-chat-template", "--max-loras=2", "--max-lora-rank=32",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "gpu"),
    [
        (None, False),
        ({"limits": {"memory": "8Gi", "hugepages-2Mi": "1Gi"}}, False),
        ({"limits": {"nvidia.com/gpu": 1}}, True),
        ({"limits": {"nvidia.com/gpu": "0"}}, False),
        ({"limits": {"example.com/accelerator": "2"}}, True),
    ],
)
def test_an_engine_with_an_accelerator_compiles(resources: dict[str, Any] | None, gpu: bool):
    engine = Engine.model_validate({"resources": resources} if resources else {})
    assert on_gpu(engine) is gpu
    args = engine_args(engine, RUNNING, base_name="b", base_path="/b")
    names = [e["name"] for e in engine_env(engine)]
    assert ("--enforce-eager" in args, "VLLM_CPU_KVCACHE_SPACE" in names) == (not gpu, not gpu)


def test_the_users_environment_wins_and_nothing_is_twice():
    engine = Engine.model_validate(
        {
            "podTemplate": {
                "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "4"}, {"name": "A", "value": "b"}]
            }
        }
    )
    env = engine_env(engine)
    names = [e["name"] for e in env]
    assert len(names) == len(set(names))
    assert {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "4"} in env
    assert {"name": "A", "value": "b"} in env


def test_limits_are_read_back_from_a_pod():
    args = engine_args(Engine(args=["--max-loras-x=9"]), RUNNING, base_name="b", base_path="/b")
    volumes = [
        {"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    pod = {"initContainers": [{"name": "check-base"}, {"name": "engine", "args": args}], "volumes": volumes}
    assert running_limits(pod) == RUNNING
    assert running_limits({"initContainers": [], "volumes": []}) is None


def test_the_reason_of_a_rollout():
    wanted = EngineLimits(2, 64, ("models", "more"))
    assert roll_reason(wanted, [RUNNING])[0] == "NewClaim"
    assert roll_reason(wanted, [EngineLimits(2, 16, ("models", "more"))])[0] == "NewMaxLoraRank"
    assert roll_reason(wanted, [wanted])[0] == roll_reason(wanted, [])[0] == "RollingOut"


@pytest.mark.parametrize(
    ("script", "terminate", "code"),
    [
        ("exit(7)", False, 7),
        ("import time; time.sleep(60)", True, 143),
        (
            "import signal, time; signal.signal(15, lambda *_: (time.sleep(0.5), exit(3))); time.sleep(60)",
            True,
            3,
        ),
    ],
    ids=["ends by itself", "has no handler", "takes its time"],
)
def test_the_shell_before_the_engine_passes_signals_and_exit_codes_on(
    script: str, terminate: bool, code: int
):
    command = ["sh", "-c", PASS_ON_SIGTERM, "sh", sys.executable, "-c", f"print(flush=True); {script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if terminate:
            time.sleep(0.3)  # its handler is set after the line
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == code


@pytest.mark.parametrize("argument", ["--hf-overrides={}", "--hf_overrides", "--hf-overrides.architectures+"])
def test_where_the_engine_is_told_another_config_it_judges_the_model(argument: str):
    assert changes_config(Engine(args=["--dtype=float32", argument, "x"]))
    assert not changes_config(Engine(args=["--dtype=float32", "x"]))
