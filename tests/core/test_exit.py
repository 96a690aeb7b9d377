"""Early exit, sample by sample, and its calibration."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper, calibrate_exit
from cycledistill._tokens import relative_changes
from tests.core.models import Frames


class Contraction(nn.Module):
    """Halves the distance to a fixed point."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(4))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.shape[0])
        return self.point + 0.5 * (x - self.point)


class Attending(nn.Module):
    """Tokens that attend to each other under a mask, with something that belongs to the sample."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                8, 2, 16, dropout=0, batch_first=batch_first, norm_first=True
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)
        self.seen: list[int] = []

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, scale: Tensor | None = None
    ) -> dict[str, Any]:
        self.seen.append(x.shape[0 if self.batch_first else 1])
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        if not self.batch_first:
            x = x.transpose(0, 1)
        logits = self.head(x.mean(1))
        if scale is not None:
            logits = logits * scale[:, None]
        return {
            "logits": logits,
            "parts": [x, SimpleNamespace(first=x[:, 0])],
            "bias": self.head.bias,
        }


def contraction() -> CycleWrapper:
    return CycleWrapper(nn.Sequential(Contraction()).double().eval(), 2, blocks=":")


def attending(batched: bool, batch_first: bool = True) -> CycleWrapper:
    torch.manual_seed(0)
    return CycleWrapper(Attending(batch_first).double().eval(), 2, "layers", batched=batched).eval()


def samples(size: int = 12) -> Tensor:
    """Samples that settle at different speeds."""
    torch.manual_seed(3)
    return torch.randn(size, 5, 8, dtype=torch.float64) * torch.logspace(-2, 1, size)[:, None, None]


def test_the_cycle_at_which_a_sample_stops() -> None:
    cycled = contraction()
    x = 1 + torch.ones(2, 3, 4, dtype=torch.float64)
    # After i cycles x is 1 + 2^-i, so cycle i + 1 changes it by 2^-(i+1) / (1 + 2^-i).
    changes = [2.0 ** -(i + 1) / (1 + 2.0**-i) for i in range(1, 30)]
    for tolerance in (0.5, 0.05, 1e-3, 1e-6):
        expected = next(i for i, change in enumerate(changes, 2) if change < tolerance)
        out = cycled(x, num_cycles=30, exit_tolerance=tolerance)
        assert cycled.cycles_run == expected
        assert cycled.sample_cycles is not None
        assert cycled.sample_cycles.tolist() == [expected] * 2
        torch.testing.assert_close(out, x - 1 + 2.0**-expected)
    cycled(x, num_cycles=3, exit_tolerance=1e-9)
    assert cycled.cycles_run == 3, "num_cycles is the limit"
    cycled(x)
    assert cycled.cycles_run == 1
    assert cycled.sample_cycles is None


def test_a_single_cycle_is_one_cycle_of_each_sample() -> None:
    cycled = CycleWrapper(nn.Sequential(Contraction(), Contraction()), 2).eval()
    x = torch.zeros(3, 2, 4)
    assert torch.equal(cycled(x, exit_tolerance=0.1), cycled(x))
    cycled(x, num_cycles=1, exit_tolerance=0.1)
    assert cycled.sample_cycles is not None and cycled.sample_cycles.tolist() == [1] * 3


def test_the_batch_shrinks() -> None:
    cycled = contraction()
    settled = torch.ones(1, 3, 4, dtype=torch.float64)
    cycled(torch.cat([settled, settled + 100, settled]), num_cycles=30, exit_tolerance=1e-3)
    assert cycled.sample_cycles is not None
    first, far, third = cycled.sample_cycles.tolist()
    assert (first, third) == (2, 2)
    assert far == cycled.cycles_run > 10
    assert cycled.plain[0].seen == [3, 3] + [1] * (far - 2)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [False, True])
def test_each_sample_gets_what_it_gets_alone(batched: bool, batch_first: bool) -> None:
    cycled = attending(batched, batch_first)
    x = samples()
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    # A batched tail must not combine the tokens with something of the plain batch.
    scale = None if batched else torch.arange(12, dtype=torch.float64)
    given = x if batch_first else x.transpose(0, 1).contiguous()
    out = cycled(given, mask=mask, scale=scale, num_cycles=9, exit_tolerance=0.25)
    assert cycled.sample_cycles is not None
    counts = cycled.sample_cycles.tolist()
    assert len(set(counts)) > 2, "samples stop at different cycles"
    if not batched:
        assert cycled.plain.seen[-1] < 12
    for i, count in enumerate(counts):
        one = x[i : i + 1] if batch_first else x[i : i + 1].transpose(0, 1)
        own = None if scale is None else scale[i : i + 1]
        alone = cycled(one, mask=mask, scale=own, num_cycles=count)
        torch.testing.assert_close(out["logits"][i], alone["logits"][0])
        torch.testing.assert_close(out["parts"][0][i], alone["parts"][0][0])
        torch.testing.assert_close(out["parts"][1].first[i], alone["parts"][1].first[0])
    assert torch.equal(out["bias"], cycled.plain.head.bias)


@pytest.mark.parametrize("batched", [False, True])
def test_where_the_batch_is_not_evident_it_stays_whole(batched: bool) -> None:
    cycled = attending(batched)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)  # as many tokens as samples
    x = samples(5)
    out = cycled(x, mask=mask, num_cycles=9, exit_tolerance=0.25)
    assert cycled.sample_cycles is not None
    assert set(cycled.plain.seen) == {5}
    assert set(cycled.sample_cycles.tolist()) == {cycled.cycles_run}
    whole = cycled(x, mask=mask, num_cycles=cycled.cycles_run)
    torch.testing.assert_close(out["logits"], whole["logits"])


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda lengths: {"of": [*lengths]}])
def test_inputs_of_each_sample_that_are_no_tensors(kind: Any) -> None:
    class Ragged(Attending):
        def forward(self, x: Tensor, *, lengths: Any = (), **_: Any) -> Any:
            found = super().forward(x)["parts"][0]
            lengths = lengths["of"] if isinstance(lengths, dict) else lengths
            return torch.stack([one[:n].mean(0) for one, n in zip(found, lengths, strict=False)])

    cycled = CycleWrapper(Ragged().double().eval(), 2, "layers").eval()
    lengths = [1 + i % 5 for i in range(12)]
    out = cycled(samples(), num_cycles=9, exit_tolerance=0.25, lengths=kind(lengths))
    whole = cycled(samples(), num_cycles=cycled.cycles_run, lengths=lengths)
    assert cycled.cycles_run > 2
    torch.testing.assert_close(out, whole)


def test_positions_with_as_many_tokens_as_samples() -> None:
    class Positions(Attending):
        def forward(self, x: Tensor, *, scale: Tensor | None = None, **_: Any) -> Any:
            assert scale is not None
            return super().forward(x * scale[None, : x.shape[1], None])

    cycled = CycleWrapper(Positions().double().eval(), 2, "layers").eval()
    x, scale = samples(5), torch.linspace(1, 2, 5, dtype=torch.float64)
    out = cycled(x, scale=scale, num_cycles=9, exit_tolerance=0.25)
    whole = cycled(x, scale=scale, num_cycles=cycled.cycles_run)
    assert cycled.cycles_run > 2
    torch.testing.assert_close(out["logits"], whole["logits"])


def test_samples_keep_the_random_numbers_of_their_stem() -> None:
    """As a masked autoencoder, which draws a mask for each sample of the batch."""

    class Shuffled(Attending):
        def forward(self, x: Tensor, **_: Any) -> Any:
            order = torch.rand(x.shape[:2]).argsort(1)[..., None].expand_as(x)
            mixed = super().forward(x.gather(1, order))["parts"][0]
            return torch.zeros_like(mixed).scatter(1, order, mixed)

    cycled = CycleWrapper(Shuffled().double().eval(), 2, "layers").eval()
    out = cycled(samples(), num_cycles=9, exit_tolerance=0.25)  # seeds
    whole = cycled.forward_cycles(samples(), num_cycles=cycled.cycles_run)
    assert cycled.cycles_run > 2
    torch.testing.assert_close(out, whole.predictions[-1])


def test_an_output_without_a_batch_dimension() -> None:
    class Flat(Attending):
        def forward(self, x: Tensor, **_: Any) -> Any:
            return super().forward(x)["parts"][0].flatten(0, 1)

    cycled = CycleWrapper(Flat().double().eval(), 2, "layers").eval()
    with pytest.raises(ValueError, match=r"early exit: an output \[60, 8\] of 12 samples"):
        cycled(samples(), num_cycles=9, exit_tolerance=0.25)


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (lambda logits: logits.square().mean(), r"\[\] of 12 samples became \[\] with"),
        (lambda logits: logits.sum().item(), r"-?\d+\.\d+ of 12 samples became -?\d+\.\d+ with"),
        (lambda logits: [*logits], r"\[3\] of 12 samples became \[3\] with"),
        (lambda logits: ["x"] * len(logits), "list of 12 samples became a shorter one with"),
    ],
    ids=["loss", "number", "tensors", "list"],
)
def test_outputs_that_belong_to_the_whole_batch(made: Any, found: str) -> None:
    class Whole(Attending):
        def forward(self, x: Tensor, **_: Any) -> Any:
            logits = super().forward(x)["logits"]
            return {"logits": logits, "whole": made(logits)}

    cycled = CycleWrapper(Whole().double().eval(), 2, "layers").eval()
    with pytest.raises(ValueError, match=f"early exit: an output {found}"):
        cycled(samples(), num_cycles=9, exit_tolerance=0.25)
    with pytest.raises(ValueError, match=r"leave them out of batches with inputs=\)"):
        calibrate_exit(cycled, [samples()], 3.0, 6)
    # As long as nothing has stopped, they are those of the last cycle.
    out = cycled(samples(), num_cycles=2, exit_tolerance=1e-9)
    expected = cycled(samples(), num_cycles=2)
    assert torch.equal(out["logits"], expected["logits"])
    assert str(out["whole"]) == str(expected["whole"])


def test_tokens_without_a_batch_dimension_stay_together() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True) for _ in range(2)]
    cycled = CycleWrapper(nn.Sequential(*layers).double(), 2).eval()
    x = samples(6)[:, 0]
    out = cycled(x, num_cycles=9, exit_tolerance=0.2)
    assert 2 < cycled.cycles_run < 9
    torch.testing.assert_close(out, cycled(x, num_cycles=cycled.cycles_run))


def test_limits_out_of_range() -> None:
    cycled = CycleWrapper(Doubling(), 2).eval()
    for limit in (90, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"exit_confidence: .* from 0 to 1, got {limit}"):
            cycled(torch.ones(2, 3, 4), num_cycles=2, exit_confidence=limit)
    for limit in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"exit_tolerance: expected 0 or more, got {limit}"):
            cycled(torch.ones(2, 3, 4), num_cycles=2, exit_tolerance=limit)


class Doubling(nn.Module):
    """A classifier whose tokens, and so its confidence, grow with every cycle."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Linear(4, 4, bias=False)
        block.weight.data = 2 * torch.eye(4)
        self.blocks = nn.ModuleList([block])
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.blocks[0](x).mean(1)


def logits_of(first: Tensor, cycles: int) -> Tensor:
    """What `Doubling` predicts for tokens that are ``first`` in channel 0 and else 0."""
    logits = torch.zeros(len(first), 4, dtype=torch.float64)
    logits[:, 0] = first * 2**cycles
    return logits


def test_confident_samples_stop_after_any_cycle() -> None:
    cycled = CycleWrapper(Doubling().double(), 2).eval()
    first = torch.tensor([2.0, 0.3, 1.0, 0.01], dtype=torch.float64)
    x = torch.zeros(4, 3, 4, dtype=torch.float64)
    x[..., 0] = first[:, None]
    out = cycled(x, num_cycles=4, exit_confidence=0.9)
    # e^z / (e^z + 3) >= 0.9 from z = log(27) = 3.3 on: 2^n times 2, 0.3, 1 after 1, 4, 2 cycles.
    counts = [1, 4, 2, 4]
    assert cycled.sample_cycles is not None
    assert cycled.sample_cycles.tolist() == counts
    assert cycled.cycles_run == 4 and cycled.plain.seen == [4, 3, 2, 2]
    alone = [logits_of(first[i : i + 1], count)[0] for i, count in enumerate(counts)]
    torch.testing.assert_close(out, torch.stack(alone))
    cycled(x, num_cycles=4, exit_confidence=0.25)
    assert cycled.cycles_run == 1 and cycled.sample_cycles.tolist() == [1] * 4


def test_either_limit_stops_a_sample() -> None:
    cycled = CycleWrapper(Doubling().double(), 2).eval()
    x = torch.zeros(2, 3, 4, dtype=torch.float64)
    x[0, :, 0], x[1, :, 0] = 2.0, 0.01
    cycled(x, num_cycles=4, exit_confidence=0.9, exit_tolerance=1.5)  # each cycle changes by 1
    assert cycled.sample_cycles is not None and cycled.sample_cycles.tolist() == [1, 2]


@pytest.mark.parametrize("kind", [dict, SimpleNamespace])
def test_confidence_of_logits_by_name(kind: Any) -> None:
    class Named(Doubling):
        def forward(self, x: Tensor) -> Any:
            return kind(logits=super().forward(x))

    cycled = CycleWrapper(Named(), 2).eval()
    x = torch.zeros(2, 3, 4)
    x[0, :, 0] = 2.0
    cycled(x, num_cycles=2, exit_confidence=0.9)
    assert cycled.sample_cycles is not None and cycled.sample_cycles.tolist() == [1, 2]


def test_confidence_without_logits_or_with_batched_cycles() -> None:
    cycled = CycleWrapper(nn.Sequential(Contraction()).eval(), 2, blocks=":")
    with pytest.raises(
        ValueError, match=r"logits \[B, classes\].* got Tensor with shape \[2, 3, 4"
    ):
        cycled(torch.ones(2, 3, 4), num_cycles=2, exit_confidence=0.9)

    class Binary(Doubling):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :1]

    with pytest.raises(ValueError, match=r"two or more classes.* got Tensor with shape \[2, 1\]"):
        CycleWrapper(Binary(), 2).eval()(torch.ones(2, 3, 4), num_cycles=2, exit_confidence=0.9)
    frames = CycleWrapper(Frames(), 2).eval()
    with pytest.raises(ValueError, match=r"logits of each of the 6 samples .* got 2"):
        frames(torch.ones(2, 3, 5, 16), num_cycles=2, exit_confidence=0.9)
    batched = CycleWrapper(Doubling(), 2, batched=True).eval()
    with pytest.raises(ValueError, match="expected batched=False, got batched=True"):
        batched(torch.ones(2, 3, 4), num_cycles=2, exit_confidence=0.9)


@pytest.mark.parametrize("target", [1.0, 1.5, 2.3, 4.0])
def test_calibration_by_confidence(target: float) -> None:
    torch.manual_seed(0)
    cycled = CycleWrapper(Doubling(), 2).eval()
    x = torch.randn(60, 3, 4)
    found = calibrate_exit(cycled, x.split(16), target, num_cycles=4, by="confidence")
    assert found.tolerance is None and found.confidence is not None
    cycled(x, num_cycles=4, exit_confidence=found.confidence)
    assert cycled.sample_cycles is not None
    run = cycled.sample_cycles
    assert torch.bincount(run, minlength=5)[1:].tolist() == list(found.counts)
    assert run.double().mean().item() == pytest.approx(found.mean_cycles)
    assert target - 1 / 10 < found.mean_cycles <= target
    assert "exit_confidence=" in str(found)


@pytest.mark.parametrize("target", [2.0, 2.5, 4.2, 8.0])
def test_calibration_spends_what_is_wanted(target: float) -> None:
    cycled = attending(batched=False)
    x = samples(60)
    found = calibrate_exit(cycled, x.split(16), target, num_cycles=8)
    cycled(x, num_cycles=8, exit_tolerance=found.tolerance)
    assert cycled.sample_cycles is not None
    run = cycled.sample_cycles
    assert run.double().mean().item() == pytest.approx(found.mean_cycles)
    assert torch.bincount(run, minlength=9)[1:].tolist() == list(found.counts)
    assert target - 1 / 4 < found.mean_cycles <= target
    assert f"{found.mean_cycles:.2f} of 8 cycles" in str(found)


def test_batches_of_other_kinds() -> None:
    cycled = attending(batched=False)
    x = samples(20)
    scale = torch.ones(10)
    expected = calibrate_exit(cycled, x.split(10), 3.0, 6)
    labelled = [(part, torch.zeros(10)) for part in x.split(10)]
    assert calibrate_exit(cycled, labelled, 3.0, 6) == expected
    named = [{"x": part, "scale": scale} for part in x.split(10)]
    assert calibrate_exit(cycled, named, 3.0, 6) == expected
    deep = [{"deep": part} for part in x.split(10)]
    assert calibrate_exit(cycled, deep, 3.0, 6, inputs=lambda batch: batch["deep"]) == expected


def test_calibration_of_batches_that_stay_whole() -> None:
    cycled = attending(batched=False)
    named = {"x": samples(5), "scale": torch.ones(5).double()}  # as many tokens as samples
    with pytest.warns(UserWarning, match=r"as many cycles as the slowest of them.*: 3.00 cycles"):
        found = calibrate_exit(cycled, [named], 3.0, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calibrate_exit(cycled, [named["x"]], 3.0, 6) == found


def test_bad_calibrations() -> None:
    cycled = attending(batched=False)
    with pytest.raises(ValueError, match=r"target: expected 2 to num_cycles=4 cycles, got 1.5"):
        calibrate_exit(cycled, [samples()], 1.5, 4)
    with pytest.raises(ValueError, match=r"expected 1 to num_cycles=4 cycles, got 0.5"):
        calibrate_exit(cycled, [samples()], 0.5, 4, by="confidence")
    with pytest.raises(ValueError, match="loader is empty"):
        calibrate_exit(cycled, [], 2.0, 4)
    with pytest.raises(ValueError, match="eval mode"):
        calibrate_exit(cycled.train(), [samples()], 2.0, 4)
    assert calibrate_exit(cycled.eval(), [samples()], 2.0, 2).counts == (0, 12)


def test_samples_in_one_sequence_are_an_error() -> None:
    """Which patches belong to the samples that go on cannot be known."""

    class Packed(Attending):
        def forward(self, x: Tensor, patches: Tensor, counts: Tensor) -> Any:  # type: ignore[override]
            means = [part.mean(0) for part in patches.split(counts.tolist())]
            return super().forward(x + torch.stack(means)[:, None])

    torch.manual_seed(0)
    cycled = CycleWrapper(Packed().eval(), 3)
    inputs = torch.randn(3, 5, 8), torch.randn(9, 8), torch.tensor([2, 4, 3])
    changes = cycled.forward_cycles(*inputs).tokens
    tolerance = float(relative_changes(*changes[:2], 0).sort().values[:2].mean())
    with pytest.raises(ValueError, match=r"Packed failed on the 2 of 3 samples that go on: .*sum"):
        cycled(*inputs, num_cycles=3, exit_tolerance=tolerance)
