"""What a trainer imports before it begins: each attempt waits for it."""

import importlib.util
import json
import sys
from pathlib import Path

import torch

from kubetune_trainer.imports import UNUSED
from tests.trainer.conftest import Process


def _tell(path: str) -> None:
    loaded = sorted(sys.modules)
    found = [name for name in UNUSED if importlib.util.find_spec(name)]
    told = {"loaded": loaded, "found later": found, "compiles": torch.compile.__name__}
    Path(path).write_text(json.dumps(told))


def test_nothing_is_imported_in_vain_and_nothing_stays_hidden(tmp_path: Path):
    child = Process.in_child(_tell, str(tmp_path / "told.json"))
    child.join(120)
    told = json.loads((tmp_path / "told.json").read_text())
    assert {"bitsandbytes", "kubetune_trainer.run"} <= set(told["loaded"])
    # The last one is torch's compiler.
    assert not {*UNUSED, "torch._inductor.compile_fx"} & set(told["loaded"])
    assert told["found later"] == list(UNUSED)
    assert told["compiles"] == "compile"
