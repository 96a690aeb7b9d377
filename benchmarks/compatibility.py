"""Try the wrapper on one small model of many families and write docs/compatibility.md.

python benchmarks/compatibility.py                   # all, a few minutes
python benchmarks/compatibility.py --only swin bert  # rows whose name holds one of these words
"""

from __future__ import annotations

import argparse
import copy
import datetime
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from cycledistill import CycleDistillLoss, CycleWrapper
from tests.core.reference import assert_same, call, equation_4, hand_fed, leaves, task_loss

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

PAGE = """# Compatibility

What happens to one small model of each family, with random weights, in float64. This page is
written by a command:

```bash
python benchmarks/compatibility.py
```

{counts}

- **As it is**: `CycleWrapper(model)` finds the stack and cycles it.
- **By path**: the tokens change their shape from stage to stage, or the stack has an unusual name;
  one stage or list can be cycled, `CycleWrapper(model, blocks="...")`. The others that could be are
  in brackets.
- **Difference**: two cycles in training are compared with cycles fed by hand, block by block, in
  the plain model: the largest difference of any token, of any prediction, and of the gradient of
  the whole loss with respect to any parameter, over the largest value (or 1). In eval mode every
  model listed with a difference gave the plain model's output to the last bit.
- `head_per_cycle=True` stands where what follows the stack mixes samples (a batch norm) or counts
  on the size of the plain batch, and is therefore called once for each cycle.

A blank means that the model cannot be cycled; the last column has the reason. Purely convolutional
networks are left out. Two things to know of Hugging Face models: a decoder's key-value cache must
be off in training (`use_cache=False`), and `output_hidden_states=True` in training collects the
states of all cycles' blocks one after the other, unless `head_per_cycle=True` keeps them apart.

{tables}

{versions}
"""


@dataclass(frozen=True)
class Candidate:
    """A model to try.

    Attributes:
        library: Where it comes from, the heading of its table.
        name: Family and representative, as the table shows it.
        make: Builds the model.
        inputs: Makes the arguments of a batch of two.
        blocks: The stack, where we know better than the search.
    """

    library: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    blocks: str | None = None


@dataclass(frozen=True)
class Row:
    """What came of it: ``difference`` is None where the model was not cycled."""

    candidate: Candidate
    how: str
    stack: str
    difference: float | None
    note: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/compatibility.md"))
    parser.add_argument("--only", nargs="+", metavar="WORD", help="do not write, print these rows")
    parser.add_argument("--threads", type=int, default=1, help="threads of one computation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    candidates = [
        candidate
        for candidate in (*of_timm(), *of_hugging_face(), *of_torch())
        if not options.only or any(word in candidate.name for word in options.only)
    ]
    console = Console(highlight=False, markup=False)
    rows: list[Row] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("trying", total=len(candidates))
        for candidate in candidates:
            progress.update(task, description=f"{candidate.library}: {candidate.name}")
            rows.append(attempt(candidate))
            progress.advance(task)
    if options.only:
        for row in rows:
            console.print(table_line(row))
        return
    temporary = options.out.with_suffix(".part")
    temporary.write_text(page(rows), encoding="utf-8")
    temporary.replace(options.out)
    cycled = sum(row.difference is not None for row in rows)
    console.print(f"{cycled} of {len(rows)} cycled; saved: {options.out}")


def attempt(candidate: Candidate) -> Row:
    """Wrap a model, or a stage of it, and compare it with cycles by hand."""
    torch.manual_seed(0)
    model = prepared(candidate.make())
    args, kwargs = candidate.inputs()
    plain = copy.deepcopy(model)
    call(copy.deepcopy(model), args, kwargs)  # an error here is ours
    how, others = "as it is" if candidate.blocks is None else "by path", ""
    blocks = candidate.blocks
    options: dict[str, Any] = {}
    for _ in range(4):
        try:
            cycled = CycleWrapper(model, 2, blocks, **options)
            stack = f"`{cycled.stack_path}`" if cycled.stack_path else "the model"
            difference = compare(cycled, copy.deepcopy(plain), args, kwargs)
        except (ValueError, RuntimeError, TypeError) as error:
            if blocks is None and (found := stages(str(error))):
                how, blocks = "by path", found[0]
                others = f" [{', '.join(f'`{path}`' for path in found[1:])}]" if found[1:] else ""
            elif "head_per_cycle=True" in str(error) and not options:
                cycled.unwrap()
                options["head_per_cycle"] = True
            else:
                return Row(candidate, "", "", None, reason(str(error)))
        else:
            note = "`head_per_cycle=True`" if options else ""
            return Row(candidate, how, stack + others, difference, note)
    raise AssertionError(candidate.name)


def prepared(model: nn.Module) -> nn.Module:
    """A model without dropout, batch norms' statistics aside random in all its parts."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d)):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif type(module).__name__.endswith("DropPath"):
            module.drop_prob = 0.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or float(parameter.std()) < 1e-3:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().train()


def compare(
    cycled: CycleWrapper, plain: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The largest relative difference from cycles by hand; eval must be equal to the last bit."""
    out = cycled(*args, **kwargs)
    CycleDistillLoss(task_loss, 0.7)(out).total.backward()
    fed = hand_fed(plain, cycled.stack_path, 2, args, kwargs)
    equation_4(fed).backward()
    pairs = list(zip(leaves(tuple(out)), leaves([fed.predictions, fed.tokens]), strict=True))
    pairs += [
        (one.grad, other.grad)
        for one, other in zip(cycled.plain.parameters(), plain.parameters(), strict=True)
        if other.grad is not None
    ]
    found = 0.0
    for got, expected in pairs:
        if isinstance(expected, Tensor) and expected.is_floating_point():
            scale = max(1.0, float(expected.detach().abs().max()))
            found = max(found, float((got - expected).detach().abs().max()) / scale)
    if not float((fed.tokens[0] - fed.tokens[1]).detach().abs().max()) > 1e-6:
        raise AssertionError("the cycles do not differ: nothing was compared")
    plain.load_state_dict(cycled.state_dict())
    with torch.no_grad():
        assert_same(cycled.eval()(*args, **kwargs), call(plain.eval(), args, kwargs), tolerance=0)
    return found


def stages(text: str) -> list[str]:
    """Paths that an error offers, the one with the most blocks first."""
    complete = [(path, int(n)) for path, n in re.findall(r"'([\w.:]+)' \((\d+) blocks\)", text)]
    if not complete:
        runs = re.findall(r"'([\w.:]+)' \((\d+) of (\d+)\)", text)
        complete = [(path, int(run)) for path, run, length in runs if run == length]
    return [path for path, _ in sorted(complete, key=lambda item: -item[1])]


def reason(text: str) -> str:
    """The first sentence or two of an error, fit for a table."""
    text = text.split(". Lists under")[0].split("Name the stack")[0].split(": looked for")[0]
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def page(rows: list[Row]) -> str:
    cycled = [row for row in rows if row.difference is not None]
    as_is = sum(row.how == "as it is" for row in cycled)
    worst = max(row.difference or 0.0 for row in cycled)
    counts = (
        f"Of {len(rows)} models, {as_is} are cycled as they are and {len(cycled) - as_is} by path; "
        f"{len(rows) - len(cycled)} cannot be. The largest difference is {worst:.0e}."
    )
    tables = []
    for library in dict.fromkeys(row.candidate.library for row in rows):
        lines = [
            f"## {library}\n",
            "| model | cycled | stack | difference | note |",
            "|---|---|---|---|---|",
        ]
        lines += [table_line(row) for row in rows if row.candidate.library == library]
        tables.append("\n".join(lines))
    named = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers"))
    versions = f"Made with {named} on {datetime.date.today().isoformat()}, on a CPU."
    return PAGE.format(counts=counts, tables="\n\n".join(tables), versions=versions)


def table_line(row: Row) -> str:
    difference = (
        "" if row.difference is None else f"{row.difference:.0e}" if row.difference else "0"
    )
    cells = (row.candidate.name, row.how, row.stack, difference, row.note)
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def images(size: int = 32, channels: int = 3) -> Callable[[], Inputs]:
    return lambda: ((torch.randn(2, channels, size, size),), {})


def of_timm() -> list[Candidate]:
    made: list[Candidate] = []

    def add(family: str, name: str, size: int = 32, blocks: str | None = None, **kw: Any) -> None:
        def make() -> nn.Module:
            return timm.create_model(name, num_classes=5, **kw)

        label = name if family in name else f"{family}: {name}"
        made.append(Candidate("timm", label, make, images(size), blocks))

    def add_class(label: str, module: str, cls: str, **kw: Any) -> None:
        def make() -> nn.Module:
            return getattr(getattr(timm.models, module), cls)(num_classes=5, **kw)

        made.append(Candidate("timm", label, make, images()))

    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    for family, name in (
        ("ViT", "vit_tiny_patch16_224"),
        ("ViT, registers", "vit_medium_patch16_reg4_gap_256"),
        ("ViT, parallel", "vit_small_patch16_18x2_224"),
        ("SigLIP", "vit_base_patch16_siglip_224"),
        ("Perception Encoder", "vit_pe_core_tiny_patch16_384"),
        ("DINOv2", "vit_small_patch14_dinov2"),
        ("DINOv3", "vit_small_patch16_dinov3"),
        ("FlexiViT", "flexivit_small"),
        ("AIMv2", "aimv2_large_patch14_224"),
        ("ViT, relative position", "vit_relpos_small_patch16_224"),
        ("ViT, shared relative position", "vit_srelpos_small_patch16_224"),
        ("ViT, mixed rotary position", "vit_small_patch16_rope_mixed_224"),
        ("DeiT", "deit_tiny_patch16_224"),
        ("DeiT, distilled", "deit_tiny_distilled_patch16_224"),
        ("DeiT III", "deit3_small_patch16_224"),
        ("BEiT", "beit_base_patch16_224"),
        ("BEiT v2", "beitv2_base_patch16_224"),
        ("EVA", "eva_large_patch14_196"),
        ("EVA-02", "eva02_tiny_patch14_224"),
        ("CaiT", "cait_xxs24_224"),
        ("XCiT", "xcit_tiny_12_p16_224"),
    ):
        add(family, name, **vit)
    without = {key: value for key, value in vit.items() if key not in ("img_size", "patch_size")}
    add("NaFlexViT", "naflexvit_base_patch16_gap", patch_size=8, **without)
    add("ViT, hybrid", "vit_tiny_r_s16_p8_224", img_size=32, **without)
    sam = {"global_attn_indexes": (3,), "window_size": 2, "neck_chans": 8}
    add("SAM's ViT", "samvit_base_patch16_224", **vit, **sam)
    add("Gemma 4 vision", "gemma4_vit_167m", 64, img_size=64, **without)
    add("Qwen3 vision", "qwen3_vit_88m_enc", 64, img_size=64, **without)
    mixer = {"img_size": 32, "patch_size": 8, "num_blocks": 4, "embed_dim": 32}
    layers = timm.models.mlp_mixer
    add_class("MLP-Mixer", "mlp_mixer", "MlpMixer", **mixer)
    residual = {"mlp_ratio": 4, "block_layer": layers.ResBlock, "norm_layer": layers.Affine}
    add_class("ResMLP", "mlp_mixer", "MlpMixer", **mixer, **residual)
    gated = {"block_layer": layers.SpatialGatingBlock, "mlp_layer": timm.layers.GatedMlp}
    add_class("gMLP", "mlp_mixer", "MlpMixer", **mixer, mlp_ratio=4, **gated)
    add_class("ConvMixer", "convmixer", "ConvMixer", dim=16, depth=4, kernel_size=3, patch_size=8)
    add("ConViT", "convit_tiny", **{**vit, "embed_dim": 16}, local_up_to_layer=3)
    inner = {"inner_dim": 8, "num_heads_inner": 2, "num_heads_outer": 2}
    add("TNT", "tnt_s_patch16_224", img_size=32, embed_dim=32, depth=4, **inner)
    add("CrossViT", "crossvit_9_240", 240)
    add("VOLO", "volo_d1_224", 64, img_size=64)
    add("ViTamin", "vitamin_small_224", 64, img_size=64)
    add("Hiera", "hiera_tiny_224", 64, img_size=(64, 64))
    windows = {"img_size": 32, "window_size": 4, "embed_dim": 16}
    depths = {"depths": (2, 2), "num_heads": (2, 2)}
    add("Swin", "swin_tiny_patch4_window7_224", **windows, **depths)
    add("Swin v2", "swinv2_tiny_window8_256", **windows, **depths)
    add("Swin v2 CR", "swinv2_cr_tiny_224", 64, **{**windows, "img_size": 64}, **depths)
    add("PVT v2", "pvt_v2_b1", 64)
    add("PiT", "pit_ti_224", 64, img_size=64)
    add("MViT v2", "mvitv2_tiny", 64, img_size=64)
    add("CoaT", "coat_lite_tiny", 64, img_size=64)
    add("Twins", "twins_pcpvt_small", 64, "blocks.2.1:", img_size=64)
    add("NesT", "nest_tiny", 64, img_size=64)
    add("LeViT", "levit_128s", 128, img_size=128)
    add("MaxViT", "maxvit_rmlp_pico_rw_256", 64, img_size=64)
    add("CAFormer", "caformer_s18", 64)
    add("DaViT", "davit_tiny", 64)
    add("FocalNet", "focalnet_tiny_srf", 64)
    add("GC ViT", "gcvit_xxtiny", 64, img_size=64)
    add("MobileViT", "mobilevit_xxs", 64)
    add("EdgeNeXt", "edgenext_xx_small", 64)
    add("EfficientFormer", "efficientformer_l1", 224)
    add("TinyViT", "tiny_vit_5m_224", 64)
    add("Sequencer", "sequencer2d_s", 64, img_size=64)
    return made


def of_hugging_face() -> list[Candidate]:
    made: list[Candidate] = []
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    pictures = {**sizes, "image_size": 32, "patch_size": 8}
    text = {**sizes, "vocab_size": 50}
    tokens = {"bos_token_id": 1, "eos_token_id": 49, "pad_token_id": 0}

    def words() -> Inputs:
        mask = torch.ones(2, 7, dtype=torch.long)
        mask[0, 5:] = 0
        return (torch.randint(2, 48, (2, 7)),), {"attention_mask": mask}

    def uncached() -> Inputs:
        args, kwargs = words()
        return args, {**kwargs, "use_cache": False}

    def add(
        name: str, inputs: Callable[[], Inputs], blocks: str | None = None, **config: Any
    ) -> None:
        def make() -> nn.Module:
            cls = getattr(transformers, name)
            return cls(cls.config_class(**config))

        made.append(Candidate("Hugging Face transformers", name, make, inputs, blocks))

    for name in (
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "BeitForImageClassification",
        "Dinov2ForImageClassification",
        "CLIPVisionModel",
        "SiglipVisionModel",
    ):
        add(name, images(), **pictures)
    stages = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
    add("SwinForImageClassification", images(), image_size=32, **stages)
    video = {**pictures, "num_frames": 4, "tubelet_size": 2}
    add("VideoMAEForVideoClassification", lambda: ((torch.randn(2, 4, 3, 32, 32),), {}), **video)
    for name in (
        "BertModel",
        "BertForSequenceClassification",
        "RobertaForSequenceClassification",
    ):
        add(name, words, **text, **tokens)
    distil = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    add("DistilBertForSequenceClassification", words, **distil)
    add("AlbertModel", words, "encoder", embedding_size=16, **text, **tokens)
    t5 = {"vocab_size": 50, "d_model": 16, "num_layers": 3, "num_heads": 2, "d_ff": 32, "d_kv": 8}
    add("T5EncoderModel", words, dropout_rate=0.0, **t5)
    add("CLIPTextModel", words, **text, **tokens)
    gpt2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2}
    add("GPT2LMHeadModel", uncached, **gpt2, **tokens)
    add("GPT2ForSequenceClassification", uncached, **gpt2, **tokens)
    add("LlamaForCausalLM", uncached, **text, **tokens)
    audio = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8, 8),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
    }
    add("Wav2Vec2Model", lambda: ((torch.randn(2, 400),), {}), **audio)
    return made


def of_torch() -> list[Candidate]:
    from torchvision import models

    def vit() -> nn.Module:
        return models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5)

    def swin() -> nn.Module:
        return models.SwinTransformer(
            [4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5
        )

    def layer(batch_first: bool) -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)

    def masked() -> Inputs:
        padding = torch.zeros(2, 6, dtype=torch.bool)
        padding[0, 4:] = True
        future = torch.triu(torch.ones(6, 6, dtype=torch.bool), diagonal=1)
        return (torch.randn(2, 6, 16),), {"mask": future, "src_key_padding_mask": padding}

    def second() -> Inputs:
        (tokens,), kwargs = masked()
        return (tokens.transpose(0, 1).contiguous(),), kwargs

    def sequence() -> Inputs:
        return (torch.randn(2, 6, 16),), {}

    def translation() -> Inputs:
        return (torch.randn(2, 6, 16), torch.randn(2, 5, 16)), {}

    def transformer() -> nn.Module:
        return nn.Transformer(16, 2, 3, 3, 32, batch_first=True)

    library = "torch and torchvision"
    return [
        Candidate(library, "torchvision VisionTransformer", vit, images()),
        Candidate(library, "torchvision SwinTransformer", swin, images()),
        Candidate(
            library,
            "nn.TransformerEncoder, with masks",
            lambda: nn.TransformerEncoder(layer(True), 3),
            masked,
        ),
        Candidate(
            library,
            "nn.TransformerEncoder, batch second, with masks",
            lambda: nn.TransformerEncoder(layer(False), 3),
            second,
        ),
        Candidate(library, "nn.Transformer", transformer, translation, "decoder.layers"),
        Candidate(
            library,
            "nn.Sequential of blocks",
            lambda: nn.Sequential(*(layer(True) for _ in range(3))),
            sequence,
        ),
    ]


if __name__ == "__main__":
    main()
