"""Ordinary calls are right for models that no batch of all cycles could serve."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

from cycledistill import CycleWrapper, _rng
from tests.core.models import BatchNormHead, Block, LoopModel
from tests.core.reference import (
    HandFed,
    assert_same,
    assert_same_gradients,
    check_by_hand,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)
from tests.core.zoo import HUGGING_FACE_SIZES, ZOO, Case, Inputs, image, sequence, words


class Residual(nn.Module):
    """Adds the stack's input to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.blocks(x)


class OwnQuery(nn.Module):
    """Puts one query for each sample of the input before the tokens that left the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.last = Block()

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.blocks(x)
        return self.last(torch.cat([self.query.expand(batch, -1, -1), x], 1))[:, 0]


def hugging_face(name: str, **config: Any) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    tokens = {"bos_token_id": 1, "eos_token_id": 49, "pad_token_id": 0, "vocab_size": 50}
    return cls(cls.config_class(**{**tokens, **config}))


def ended_words(size: int) -> Inputs:
    (ids,), kwargs = words(size)
    ids = ids.clamp(2, 48)
    ids[:, -1] = 49
    return (ids,), kwargs


def uncached(size: int) -> Inputs:
    args, kwargs = ended_words(size)
    return args, {**kwargs, "use_cache": False}  # the reference calls blocks one by one


def patches(size: int) -> Inputs:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, 16, 2)
    valid = torch.ones(size, 16, dtype=torch.bool)
    valid[0, 12:] = False
    made = torch.randn(size, 16, 192, dtype=torch.float64)
    return (
        {"patches": made, "patch_coord": places.expand(size, -1, -1), "patch_valid": valid},
    ), {}


def staged(name: str, stage: str, **kwargs: Any) -> Case:
    return Case(lambda: timm.create_model(name, num_classes=5, **kwargs), image, stage, stage)


GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "resid_pdrop": 0.0}
SMALL = (8, 16, 40, 64)
NOT_BATCHED: dict[str, Case] = {
    "residual": Case(Residual, sequence),
    "own-query": Case(OwnQuery, sequence),
    "batch-norm": Case(BatchNormHead, sequence),
    "centred": Case(lambda: LoopModel(lambda y, x: y - y.mean(0)), sequence),
    "scalar": Case(lambda: LoopModel(lambda y, x: {"y": y, "loss": x.square().mean()}), sequence),
    "naflexvit-masked": Case(ZOO["naflexvit"].make, patches),
    "hf-clip-text": Case(
        lambda: hugging_face("CLIPTextModel", **HUGGING_FACE_SIZES), ended_words, None
    ),
    "hf-gpt2-classifier": Case(
        lambda: hugging_face("GPT2ForSequenceClassification", num_labels=3, **GPT2), uncached, None
    ),
    "pvt_v2": staged("pvt_v2_b1", "stages.1.blocks", embed_dims=SMALL, depths=(1, 3, 1, 1)),
    "pit": staged(
        "pit_ti_224",
        "transformers.1.blocks",
        img_size=32,
        patch_size=8,
        stride=4,
        base_dims=(8, 8, 8),
        depth=(1, 2, 1),
        heads=(1, 2, 2),
    ),
    "coat": staged(
        "coat_lite_tiny",
        "serial_blocks3",
        img_size=32,
        embed_dims=SMALL,
        serial_depths=(1, 1, 2, 1),
    ),
    "twins": staged(
        "twins_pcpvt_small", "blocks.2.1:", img_size=32, embed_dims=SMALL, depths=(1, 1, 3, 1)
    ),
    "mobilevit": staged("mobilevit_xxs", "stages.3.1.transformer"),
}


@pytest.mark.parametrize("case", NOT_BATCHED.values(), ids=NOT_BATCHED.keys())
def test_models_that_cannot_be_batched(case: Case) -> None:
    args, kwargs = case.batch()
    batched = CycleWrapper(case.build(), 2, case.blocks, batched=True)
    with pytest.raises(ValueError, match=r"batch.*batched=False"):
        batched(*args, **kwargs)
    check_by_hand(case, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": "block"},
        {"activation_checkpointing": "cycle"},
        {"check_finite": True},
        {"min_cycles": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["residual", "hf-gpt2-classifier"])
def test_with_other_options(name: str, options: dict[str, Any]) -> None:
    check_by_hand(NOT_BATCHED[name], **options)


def test_with_options_that_change_the_tokens() -> None:
    """Residual adds the stem's tokens, which no batch of all cycles could."""
    torch.manual_seed(0)
    model = Residual().double()
    plain = copy.deepcopy(model)
    options = {"input_injection": 0.5, "grad_cycles": 1, "cycle_embedding": True}
    cycled = CycleWrapper(model, 3, **options).double()
    (x,), _ = sequence(2)
    out = cycled(x)
    entered = plain.stem(x)
    tokens = [plain.blocks(entered)]
    for _ in range(2):
        tokens.append(plain.blocks(tokens[-1].detach() + 0.5 * entered))
    assert_same(out.tokens, tuple(tokens))
    assert_same(out.predictions, tuple(entered + t for t in tokens))
    loss_of(out).backward()
    equation_4(HandFed([entered + t for t in tokens], tokens)).backward()
    assert_same_gradients(model, gradients(plain))
    assert cycled.teacher_state_dict()["embedding"].shape == (2, 16)
    assert dict(cycled.named_parameters())["cycle_teacher.embedding"].grad is not None


def test_hidden_states_are_each_cycles_own() -> None:
    case = ZOO["hf-vit"]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3)
    _, kwargs = case.batch()
    out = cycled(output_hidden_states=True, **kwargs)
    first = plain(output_hidden_states=True, **kwargs)
    assert_same(out.predictions[0], first)
    for prediction, before, after in zip(
        out.predictions[1:], out.tokens[:-1], out.tokens[1:], strict=True
    ):
        assert len(prediction.hidden_states) == 4
        states = [before]
        for block in plain.vit.layers if hasattr(plain.vit, "layers") else plain.vit.encoder.layer:
            states.append(block(states[-1]))
        assert_same(tuple(prediction.hidden_states[1:3]), tuple(states[1:3]))
        assert_same(after, states[3])


def test_labels_are_welcome() -> None:
    """Every cycle's samples stand alone, so a model may compute its own loss of each."""
    case = ZOO["hf-vit"]
    _, kwargs = case.batch()
    labels = torch.tensor([1, 3])
    out = CycleWrapper(case.build(), 2)(labels=labels, **kwargs)
    for prediction in out.predictions:
        expected = nn.functional.cross_entropy(prediction.logits, labels)
        torch.testing.assert_close(prediction.loss, expected)


def test_an_error_in_the_tail_leaves_the_blocks_running() -> None:
    calls: list[int] = []

    def head(y: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("second cycle")
        return y

    model = LoopModel(head)
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2)
    x = torch.randn(2, 6, 16)
    with pytest.raises(KeyError, match=r"second cycle"):
        cycled(x)
    assert_same(model(x), plain(x), tolerance=0)
    assert len(cycled(x).predictions) == 2


def test_a_dict_that_the_model_writes_into() -> None:
    class Writes(LoopModel):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
            batch["logits"] = super().forward(batch["x"])
            return batch

    torch.manual_seed(0)
    model = Writes().double()
    (x,), _ = sequence(2)
    batch = {"x": x}
    expected = model({"x": x})["logits"]
    out = CycleWrapper(model, 2)(batch)
    assert_same(out.predictions[0]["logits"], expected, tolerance=0)
    assert not torch.equal(out.predictions[1]["logits"], expected)
    assert list(batch) == ["x"]


def test_a_dict_that_the_model_keeps_and_returns() -> None:
    class Keeps(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.made: dict[str, Any] = {}

        def forward(self, batch: SimpleNamespace) -> dict[str, Any]:  # type: ignore[override]
            batch.x = batch.x * 2
            self.made["logits"] = super().forward(batch.x)
            return self.made

    torch.manual_seed(0)
    model = Keeps().double()
    (x,), _ = sequence(2)
    expected = model(SimpleNamespace(x=x))["logits"].clone()
    out = CycleWrapper(model, 2)(SimpleNamespace(x=x))
    assert_same(out.predictions[0]["logits"], expected, tolerance=0)
    assert not torch.equal(out.predictions[1]["logits"], expected)


def test_a_dataclass_with_fields_of_its_own_making() -> None:
    @dataclass
    class Output:
        halves: Tensor = field(init=False)
        logits: Tensor | None = None

        def __post_init__(self) -> None:
            assert self.logits is not None
            self.halves = self.logits / 2

    torch.manual_seed(0)
    model = LoopModel(lambda y, x: Output(logits=y)).double()
    (x,), _ = sequence(2)
    expected = model(x)
    for batched in (False, True):
        out = CycleWrapper(copy.deepcopy(model), 2, batched=batched)(x)
        assert_same(out.predictions[0], expected, tolerance=1e-13)
        torch.testing.assert_close(out.predictions[1].halves, out.predictions[1].logits / 2)


def test_hooks_of_a_user_belong_to_the_block() -> None:
    """Whether they came before or after wrapping, also behind a change of mode."""

    def doubles(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * 2

    def halves(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0] / 2,)

    (x,), _ = sequence(2)
    results = []
    for after, modes in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        model = LoopModel().double()
        cycled = CycleWrapper(model, 3) if after else None
        model.blocks[-1].register_forward_hook(doubles)
        model.blocks[0].register_forward_pre_hook(halves)
        cycled = cycled or CycleWrapper(model, 3)
        if modes:
            cycled.eval()
            cycled(x, num_cycles=2)
            cycled.train()
        results.append(cycled(x))
    assert_same(results[1], results[0], tolerance=0)
    assert_same(results[2], results[0], tolerance=0)


def test_backward_hooks_of_a_user() -> None:
    (x,), _ = sequence(2)
    model = LoopModel().double()
    plain = copy.deepcopy(model)

    def doubles(_: nn.Module, grad_input: Any, grad_output: Any) -> tuple[Tensor]:
        return (2 * grad_input[0],)

    for one in (model, plain):
        one.blocks[0].register_full_backward_hook(doubles)
        one.blocks[-1].norm1.register_full_backward_hook(doubles)
    cycled = CycleWrapper(model, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(cycled(x)).backward()
    equation_4(hand_fed(plain, "blocks", 3, (x,), {})).backward()
    assert_same_gradients(model, gradients(plain))
    handle = model.blocks[-1].register_full_backward_hook(doubles)
    with pytest.warns(UserWarning, match=r"block 2 \(Block\).* has backward hooks: they see"):
        cycled(x)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        cycled(x)
    handle.remove()


def test_a_stem_draws_the_same_in_every_cycle() -> None:
    """A mask that the tail uses must be that of the tokens; blocks and tail draw anew."""

    class Masked(LoopModel):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            keep = torch.rand(x.shape[0], 6, 1) > 0.5
            noise, shift = random.random(), np.random.rand()
            x = self.stem(x) * keep
            for block in self.blocks:
                x = block(x)
            drawn = torch.rand(3)
            return {"keep": keep, "stem": torch.tensor([noise, shift]), "tail": drawn, "y": x}

    model = Masked().double()
    (x,), _ = sequence(2)
    torch.manual_seed(3)
    first = model(x)
    second_tail = torch.rand(3)
    torch.manual_seed(3)
    out = CycleWrapper(model, 3)(x)
    for prediction in out.predictions:
        assert torch.equal(prediction["keep"], first["keep"])
        assert torch.equal(prediction["stem"], out.predictions[0]["stem"])
    assert torch.equal(out.predictions[0]["tail"], first["tail"])
    assert torch.equal(out.predictions[1]["tail"], second_tail)
    assert not torch.equal(out.predictions[2]["tail"], second_tail)


@pytest.mark.parametrize("kind", [None, "block"])
def test_a_stem_draws_the_same_from_a_generator_that_it_is_given(kind: str | None) -> None:
    class Masked(LoopModel):
        def forward(self, x: Tensor, generator: torch.Generator) -> Any:  # type: ignore[override]
            keep = torch.rand(x.shape[0], 6, 1, generator=generator) > 0.5
            return super().forward(x * keep), keep, torch.rand(3, generator=generator)

    (x,), _ = sequence(2)
    generator = torch.Generator()
    cycled = CycleWrapper(Masked().double(), 3, activation_checkpointing=kind)
    predictions = cycled(x, generator=generator).predictions
    assert torch.equal(predictions[1][1], predictions[0][1])
    assert torch.equal(predictions[2][1], predictions[0][1])
    assert not torch.equal(predictions[1][2], predictions[0][2])
    assert not torch.equal(predictions[2][2], predictions[1][2])


def test_a_stem_draws_the_same_from_a_generator_that_it_holds() -> None:
    class Masked(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator()

        def forward(self, x: Tensor, given: Any) -> Any:  # type: ignore[override]
            keep = [torch.rand(6, 1, generator=one) > 0.5 for one in (self.generator, given["g"])]
            return super().forward(x * keep[0] * keep[1]), keep

    (x,), _ = sequence(2)
    cycled = CycleWrapper(Masked().double(), 3)
    for each in (cycled, copy.deepcopy(cycled)):
        predictions = each(x, {"g": torch.Generator()}).predictions
        for _, keep in predictions[1:]:
            assert all(map(torch.equal, keep, predictions[0][1]))


@pytest.mark.parametrize(
    "made",
    [random.Random, np.random.default_rng, np.random.RandomState],
    ids=["python", "numpy", "legacy"],
)
def test_a_stem_draws_the_same_from_generators_of_python_and_numpy(made: Any) -> None:
    class Masked(LoopModel):
        def __init__(self) -> None:
            super().__init__()
            self.generator = made(1)

        def forward(self, x: Tensor, given: Any) -> Any:  # type: ignore[override]
            keep = self.generator.random(), given.random()
            return super().forward(x * keep[0] * keep[1]), keep, self.generator.random()

    (x,), _ = sequence(2)
    cycled = CycleWrapper(Masked().double(), 3)
    for each in (cycled, copy.deepcopy(cycled)):
        first, second, third = each(x, made(2)).predictions
        assert first[1] == second[1] == third[1]
        assert first[2] != second[2] != third[2]
        assert each.plain.generator.random() != first[1][0]


class Drawer:
    """An object, not a module, with a generator of its own."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)


PLACES: dict[str, tuple[Any, Any]] = {
    "list": (lambda: [torch.Generator()], lambda held: torch.rand(6, 1, generator=held[0])),
    "dict": (lambda: {"a": [random.Random(1)]}, lambda held: torch.tensor(held["a"][0].random())),
    "object": (Drawer, lambda held: torch.tensor(held.random.random((6, 1)))),
}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_stem_draws_the_same_from_generators_in_any_place(
    place: tuple[Any, Any], late: bool
) -> None:
    """Also from those that the model gets, or replaces, when it is wrapped already."""
    make, draw = place

    class Stem(nn.Linear):
        drawers: Any = None

        def forward(self, x: Tensor) -> Tensor:
            seen.append(draw(self.drawers))
            return super().forward(x) * seen[-1]

    model, seen = LoopModel(), list[Tensor]()
    model.stem = Stem(16, 16)
    model.double()
    if not late:
        model.stem.drawers = make()
    cycled = CycleWrapper(model, 3)
    for _ in range(2):
        seen.clear()
        if late:
            model.stem.drawers = make()
        cycled(*sequence(2)[0])
        assert len(seen) == 3 and all(torch.equal(seen[0], one) for one in seen)


def test_long_lists_are_not_looked_through_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the names of 20,000 classes in a config."""
    model, seen = LoopModel().double(), list[Any]()
    model.names = {number: str(number) for number in range(1000)}
    monkeypatch.setattr(_rng, "_is_generator", lambda value: seen.append(value) is not None)
    CycleWrapper(model, 2)(*sequence(2)[0])
    assert seen and "500" not in seen


@pytest.mark.parametrize("kind", [None, "block", "cycle"])
def test_fake_tensors(kind: str | None) -> None:
    """With which memory and operations are counted; random generators are real."""
    with FakeTensorMode():
        cycled = CycleWrapper(LoopModel(), 2, activation_checkpointing=kind)
        out = cycled(torch.randn(2, 6, 16))
        out.predictions[1].sum().backward()
    assert out.predictions[1].shape == (2, 5)
    assert cycled.head.weight.grad is not None


def test_layerdrop() -> None:
    """Blocks that are skipped at random: said when wrapping, and right all the same."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.3,
        mask_time_prob=0.0,
    )
    model = transformers.Wav2Vec2Model(config).train()
    with pytest.warns(UserWarning, match=r"config.layerdrop=0.3 and skips blocks at random"):
        cycled = CycleWrapper(model, 3)
    sound = torch.randn(2, 800)
    for _ in range(10):
        out = cycled(sound)
        assert len(out.tokens) == 3
        loss_of(out).backward()


def test_padding_and_nested_tensors_in_eval_mode() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(3, 6, 16), torch.zeros(3, 6, dtype=torch.bool)
    padding[:, 4:] = True
    cycled = CycleWrapper(model, 2)
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
        assert_same(cycled(x, src_key_padding_mask=padding), expected, tolerance=0)
        two = cycled(x, src_key_padding_mask=padding, num_cycles=2)
        with torch.enable_grad():  # no fast path
            once = model(x, src_key_padding_mask=padding)
            twice = model(once, src_key_padding_mask=padding)
    torch.testing.assert_close(two[:, :4], twice[:, :4], rtol=0, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


def test_gradients_of_single_samples_from_the_first_call() -> None:
    torch.manual_seed(0)
    model = LoopModel().double()
    cycled = CycleWrapper(model, 2)
    (x,), _ = sequence(3)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        out = functional_call(cycled, parameters, (x[None],))
        return out.predictions[1].square().sum()

    got = vmap(grad(loss), (None, 0))(parameters, x)
    for sample in range(3):
        model.zero_grad()
        cycled(x[sample : sample + 1]).predictions[1].square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(got[name][sample], parameter.grad, rtol=0, atol=1e-10)
