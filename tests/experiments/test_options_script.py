"""experiments/options.py: each option does what its name says, and the table holds its figures."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tests.experiments.test_experiments import EXPERIMENTS
from tests.models.stand_ins import write_bert
from tests.models.tiny import NETWORKS
from tests.tiny_run import load_script, shell, write_experiment
from textseg.batch import Batch
from textseg.benchmark.cost import random_batch
from textseg.benchmark.experiments import network_from
from textseg.benchmark.memory import MIB
from textseg.benchmark.timing import in_parts
from textseg.encoders import TextEncoder
from textseg.models.base import SegmentationModule
from textseg.models.lsms import LSMS

SCRIPT = EXPERIMENTS / "options.py"
CPU = torch.device("cpu")
FLASH = "_scaled_dot_product_flash_attention_for_cpu"


options: Any = load_script(SCRIPT)


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seed and threads, which the script sets for its process."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lsms.yaml and unet.yaml, both tiny."""
    folder = tmp_path_factory.mktemp("options")
    write_experiment(folder, "lsms")
    unet = write_experiment(folder, "unet")
    settings = NETWORKS["ImageBaseline"]
    unet.write_text(json.dumps({"model": {"class_path": "ImageBaseline", "init_args": settings}}))
    return folder


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(4, 32)


@pytest.fixture(scope="module")
def model(files: Path, batch: Batch) -> SegmentationModule:
    """Is copied by whatever runs it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network_from(str(files / "lsms.yaml"))
    model.prepare_captions(batch["text"], training=True)
    return model


class Calls(TorchDispatchMode):
    """Counts torch's operations by name, and those of the convolutions by their precision."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.convolutions: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.operations[name] += 1
        if name == "convolution":
            self.convolutions[args[0].dtype] += 1
        return func(*args, **(kwargs or {}))


@dataclass
class Seen:
    """The gradients that the optimizer gets in the first step, and the second's operations."""

    operations: Counter[str]
    convolutions: Counter[torch.dtype]
    gradients: list[Tensor]

    @property
    def norm(self) -> Tensor:
        return torch.stack([g.norm() for g in self.gradients]).norm()


def step_of(option: str, model: SegmentationModule, batch: Batch) -> Seen:
    """Two steps of a copy of the network; in the second captions are known."""
    setting = options.OPTIONS.get(option, options.Setting())
    one = options.under(setting, option, model, batch, CPU)
    one.train(True)
    gradients: list[list[Tensor]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        own = (p.grad for group in optimizer.param_groups for p in group["params"])
        gradients.append([g.clone() for g in own if g is not None])

    hook = register_optimizer_step_pre_hook(keep)
    try:
        one.step()
        with Calls() as calls:
            one.step()
    finally:
        hook.remove()
    first, _ = gradients  # one optimizer step in each, whatever the option
    return Seen(calls.operations, calls.convolutions, first)


@pytest.fixture(scope="module")
def base(model: SegmentationModule, batch: Batch) -> Seen:
    return step_of("base", model, batch)


def assert_same(ones: list[Tensor], others: list[Tensor]) -> None:
    """Up to rounding, of the whole gradient's size: some weights' own is nothing but rounding."""
    size = max(float(other.abs().max()) for other in others)
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * size)


def test_an_option_differs_from_the_base_in_one_thing() -> None:
    base = asdict(options.Setting())
    for name, setting in options.OPTIONS.items():
        changed = [field for field, value in asdict(setting).items() if value != base[field]]
        assert len(changed) == 1, name


def test_every_default_network_is_an_experiment() -> None:
    assert all((EXPERIMENTS / f"{name}.yaml").is_file() for name in options.NETWORKS)


# What each option does


def test_the_base_is_fused_in_fp32_and_encodes_no_caption_again(
    model: SegmentationModule, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = record_captions(monkeypatch)
    seen = step_of("base", model, batch)
    assert encoded == batch["text"], "in the first of two steps"
    assert seen.operations["_fused_adamw_"] > 0
    assert seen.operations[FLASH] > 0
    assert seen.operations[f"{FLASH}_backward"] == seen.operations[FLASH]
    assert set(seen.convolutions) == {torch.float32}


def record_captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that the text encoder is run on, in order."""
    encoded: list[str] = []
    original = TextEncoder._encode_alone

    def recorded(self: TextEncoder, caption: str) -> Any:
        encoded.append(caption)
        return original(self, caption)

    monkeypatch.setattr(TextEncoder, "_encode_alone", recorded)
    return encoded


@pytest.mark.parametrize(("option", "last"), [("base", True), ("channels_first", False)])
def test_the_image_and_the_weights_are_in_the_memory_format(
    model: SegmentationModule,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    last: bool,
) -> None:
    seen: list[Tensor] = []
    original = LSMS.forward_features

    def recorded(self: LSMS, image: Tensor, text: Any) -> Any:
        wide = (m.weight for m in self.modules() if isinstance(m, nn.Conv2d))
        seen.extend([image, next(w for w in wide if min(w.shape[1:]) > 1)])
        return original(self, image, text)

    monkeypatch.setattr(LSMS, "forward_features", recorded)
    step_of(option, model, batch)
    assert len(seen) == 4
    assert all(t.is_contiguous(memory_format=torch.channels_last) == last for t in seen)
    assert all(t.is_contiguous() != last for t in seen)


def test_plain_adamw_is_not_fused_and_gets_the_same_gradients(
    model: SegmentationModule, batch: Batch, base: Seen
) -> None:
    plain = step_of("plain_adamw", model, batch)
    assert plain.operations["_fused_adamw_"] == 0
    assert_same(plain.gradients, base.gradients)


def test_plain_attention_is_matrix_products_forward_and_backward(
    model: SegmentationModule, batch: Batch, base: Seen
) -> None:
    plain = step_of("plain_attention", model, batch)
    assert not any("flash" in name or "efficient" in name for name in plain.operations)
    more = plain.operations - base.operations
    assert more["_softmax_backward_data"] == base.operations[FLASH]
    assert more["bmm"] == (2 + 4) * base.operations[FLASH]
    assert_same(plain.gradients, base.gradients)


def test_uncached_text_encodes_every_caption_in_every_step(
    model: SegmentationModule, batch: Batch, base: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = record_captions(monkeypatch)
    uncached = step_of("uncached_text", model, batch)
    assert encoded == 2 * batch["text"]
    assert_same(uncached.gradients, base.gradients)


@pytest.mark.parametrize("option", ["bf16", "compile", "bf16_compile"])
def test_precision_and_compilation_are_those_of_the_options_name(
    model: SegmentationModule, batch: Batch, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    runs: list[str] = []

    def compiled(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            runs.append(function.__name__)
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    seen = step_of(option, model, batch)
    assert runs == (["forward_features"] * 2 if "compile" in option else [])
    assert set(seen.convolutions) == {torch.bfloat16 if "bf16" in option else torch.float32}
    assert {g.dtype for g in seen.gradients} == {torch.float32}


def test_checkpointing_computes_blocks_twice_for_the_same_gradients(
    model: SegmentationModule, batch: Batch, base: Seen
) -> None:
    twice = step_of("checkpointing", model, batch)
    assert twice.operations["convolution"] > 1.3 * base.operations["convolution"]
    assert_same(twice.gradients, base.gradients)


def test_two_halves_give_the_mean_of_their_gradients(
    model: SegmentationModule, batch: Batch, base: Seen
) -> None:
    reference = copy.deepcopy(model).train()
    trained = [p for p in reference.parameters() if p.requires_grad]
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        own: Any = {name: value[rows] for name, value in dict(batch).items()}  # type: ignore[index]
        loss = reference.compute_loss(reference(own["image"], own["text"]), own)["loss"]
        halves.append(torch.autograd.grad(loss, trained))
    by_size = sorted([(a + b) / 2 for a, b in zip(*halves, strict=True)], key=order)
    seen = step_of("two_halves", model, batch)
    assert_same(sorted(seen.gradients, key=order), by_size)
    assert seen.operations["convolution"] == 2 * base.operations["convolution"]


def order(gradient: Tensor) -> tuple[Any, ...]:
    """The optimizer's groups are ordered otherwise than the network's parameters."""
    return (*gradient.shape, round(float(gradient.abs().sum()), 3))


def test_a_batch_is_cut_into_all_of_its_rows_in_order(batch: Batch) -> None:
    parts = in_parts(batch, 2)
    assert [text for part in parts for text in part["text"]] == batch["text"]
    assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])
    assert all(part.keys() == batch.keys() for part in parts)


def test_clipping_shortens_a_long_gradient_to_norm_1_and_keeps_its_direction(
    model: SegmentationModule, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LSMS.compute_loss

    def larger(self: LSMS, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {name: 1000 * value for name, value in original(self, output, batch).items()}

    monkeypatch.setattr(LSMS, "compute_loss", larger)
    base, clipped = step_of("base", model, batch), step_of("clipping", model, batch)
    assert base.norm > 100
    assert float(clipped.norm) == pytest.approx(1, abs=1e-3)
    assert_same(clipped.gradients, [g / base.norm for g in base.gradients])


def test_copies_share_the_frozen_weights_and_neither_trained_ones_nor_captions(
    model: SegmentationModule, batch: Batch
) -> None:
    copied: Any = options.copied(model)
    for one, other in zip(copied.parameters(), model.parameters(), strict=True):
        assert (one is other) == (not other.requires_grad)
    copied.encode_text(batch["text"])
    assert len(copied.text_encoder._cache) == 4
    assert len(options.text_encoder_of(model)._cache) == 0


# The command


def call(*arguments: str | Path) -> None:
    options.main([*map(str, arguments), "--image_size", "32", "--rounds", "1"])


def table_of(out: str) -> list[list[str]]:
    """The cells of the table's rows, below its head."""
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_and_the_file_hold_a_row_for_each_option_that_can_act(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bert(tmp_path / "bert")
    networks = f"{files / 'lsms.yaml'},{files / 'unet.yaml'}"
    chosen = "uncached_text,plain_attention,two_halves"
    output = tmp_path / "options.json"
    arguments: list[str | Path] = ["--networks", networks, "--output", output]
    arguments += ["--text_encoder", tmp_path / "bert"]
    call(*arguments, "--options", chosen, "--seed", "7")
    out = capsys.readouterr().out
    result = json.loads(output.read_text())
    rows = result["rows"]
    of_lsms = [("lsms", option) for option in ("base", *chosen.split(","))]
    assert [(row["network"], row["option"]) for row in rows] == [
        *of_lsms,
        ("unet", "base"),
        ("unet", "two_halves"),
    ]
    assert result["left_out"] == {
        "lsms": {},
        "unet": {"uncached_text": "no text encoder", "plain_attention": "no attention"},
    }
    assert "left out for unet: uncached_text (no text encoder)" in out
    for row in rows:
        (base,) = (r for r in rows if (r["network"], r["option"]) == (row["network"], "base"))
        assert row["step_s"] > 0
        assert row["step_ratio"] == row["step_s"] / base["step_s"]
        assert row["memory_ratio"] == row["peak_memory_mib"] / base["peak_memory_mib"]
    assert [cells[:2] for cells in table_of(out)] == [[r["network"], r["option"]] for r in rows]
    assert result["environment"]["seed"] == 7
    assert f"torch {torch.__version__}" in out
    assert "threads 1 of" in out


def test_a_row_is_median_and_spread_of_its_rounds_over_the_base_and_its_memory(
    model: SegmentationModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"base": [1.0, 3.0, 2.0, 9.0, 2.5], "clipping": [6.0, 4.0, 5.0, 8.0, 7.0]}

    def fill(contenders: Any, rounds: int, *, measures: Any, warm_up: int) -> None:
        assert (rounds, measures, warm_up) == (5, ["step"], 0)
        for one in contenders:
            one.times["step"] += seconds[one.name]

    monkeypatch.setattr(options, "time_rounds", fill)
    monkeypatch.setattr(options, "growth", lambda run, device: 5 * MIB)
    base, clipping = options.measured("lsms", model, ["clipping"], job(rounds=5))
    assert (base["step_s"], clipping["step_s"], clipping["step_ratio"]) == (2.5, 6.0, 2.4)
    for row in (base, clipping):
        first, third = np.percentile(seconds[row["option"]], [25, 75])
        assert row["step_spread_s"] == pytest.approx(third - first)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = 4 * (sum(p.numel() for p in model.parameters()) + 2 * trained)  # with AdamW's state
    assert base["peak_memory_mib"] == pytest.approx(5 + held / MIB, rel=0.02)
    assert clipping["memory_ratio"] == 1


def job(**changes: Any) -> Any:
    settings: dict[str, Any] = {"networks": {}, "options": ["clipping"], "text_encoder": None}
    settings |= {"device": CPU, "image_size": 32, "batch_size": 2, "threads": 1, "rounds": 1}
    return options.Job(**settings | {"output": None} | changes)


def test_an_option_that_fails_stops_the_run_and_is_named(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            raise RuntimeError("backend='inductor' raised:\nno working C++ compiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(SystemExit) as end:
        call("--networks", files / "lsms.yaml", "--options", "clipping,compile,bf16")
    assert end.value.code == 2
    error, remedy = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: lsms: the option compile fails here: backend='inductor' raised")
    assert "no working C++ compiler" in error
    assert remedy == "remedy: leave it out: --options clipping,bf16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--options", "clipping,faster"], "--options: there is no 'faster'"),
        (["--options", "two_halves", "--batch_size", "3"], "--batch_size 3 has no two halves"),
        (["--rounds", "0"], "--rounds 0 is below 1"),
        (["--image_size", "50"], "image_size=50 is not divisible by 32"),
        (["--networks", "lsms_qata,gone"], "gone"),
        (["--output", "no/such/file.json"], "there is no such folder"),
        (["--networks", "a/x.yaml,b/x.yaml"], "have the same name"),
    ],
)
def test_a_wrong_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(options, "measured", lambda *_: [])
    monkeypatch.setattr(options, "idle_options", lambda *_: {})
    with pytest.raises(SystemExit) as end:
        options.main(["--text_encoder", "scratch", *arguments])
    assert end.value.code == 2
    error, remedy = capsys.readouterr().err.strip().splitlines()
    assert message in error
    assert remedy.startswith("remedy: ")


def test_a_file_of_figures_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("{}")
    with pytest.raises(SystemExit):
        options.main(["--output", str(kept)])
    assert "exists" in capsys.readouterr().err
    assert kept.read_text() == "{}"


@pytest.mark.slow
def test_the_script_compiles_for_real_from_another_folder(files: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["--networks", files / "unet.yaml"]
    arguments += ["--image_size", "32", "--rounds", "1", "--options", "bf16_compile"]
    done = shell(SCRIPT, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [cells[1] for cells in table_of(done.stdout)] == ["base", "bf16_compile"]


@pytest.mark.slow
def test_without_a_compiler_the_run_stops_at_what_needs_it(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    arguments: list[str | Path] = ["--networks", files / "lsms.yaml"]
    arguments += ["--image_size", "32", "--rounds", "1"]
    done = shell(SCRIPT, *arguments, "--options", "compile,clipping", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: lsms: the option compile fails here: " in done.stderr
    assert done.stderr.rstrip().endswith("remedy: leave it out: --options clipping")
