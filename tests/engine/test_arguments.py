"""Which arguments of the real vLLM may be given to it by `engine.args`."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from kubetune.api.adapterset import Engine

RESERVED = {
    "--api-key", "--config", "--enable-lora", "--host", "--lora-modules", "--max-lora-rank", "--max-loras",
    "--model", "--no-enable-lora", "--no-trust-remote-code", "--port", "--root-path", "--served-model-name",
    "--ssl-ca-certs", "--ssl-cert-reqs", "--ssl-certfile", "--ssl-ciphers", "--ssl-keyfile",
    "--trust-remote-code", "--trust-request-chat-template", "--no-trust-request-chat-template", "--uds",
}  # fmt: skip


FLAGS_OF_VLLM = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
print(json.dumps(list(make_arg_parser(FlexibleArgumentParser())._option_string_actions)))
"""


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every flag of vLLM's server, as its own parser has them."""
    done = subprocess.run([sys.executable, "-c", FLAGS_OF_VLLM], stdout=subprocess.PIPE, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def accepted(*args: str) -> bool:
    try:
        Engine(args=list(args))
    except ValidationError:
        return False
    return True


def test_what_could_expand_to_a_reserved_flag_is_refused(flags: set[str]):
    assert flags >= RESERVED
    for flag in RESERVED:
        for end in range(2, len(flag) + 1):
            for written in (flag[:end], flag[:end].replace("-", "_").replace("__", "--", 1)):
                forms = (written, f"{written}=x", f"{written}.key=x")
                assert not any(accepted(form) for form in forms), written


def test_every_other_flag_can_be_given(flags: set[str]):
    others = flags - RESERVED
    assert len(others) > 200
    assert [flag for flag in others if not (accepted(flag) and accepted(f"{flag}=x"))] == []


def test_a_last_argument_that_would_swallow_ours_is_refused():
    """vLLM takes what follows --flag.key for its value, whatever it is: here our --host=127.0.0.1."""
    assert not accepted("--additional-config.key")
    assert not accepted("--max-num-seqs=8", "-cc.level")
    assert accepted("--additional-config.key", "1")
    assert accepted("--additional-config.key=1.5")
    assert accepted("--gpu-memory-utilization", "0.9")
