"""The arguments and options of the commands."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.preset_files import preset_names


def complete_preset(incomplete: str) -> list[str]:
    """Return the names of presets that begin with `incomplete`."""
    return [name for name in preset_names() if name.startswith(incomplete)]


ROPE = (
    "Path of a config.json or of its folder, name of a preset, - for standard input, or a JSON "
    "object with parameters."
)

Config = Annotated[str, typer.Argument(metavar="CONFIG", help=ROPE, autocompletion=complete_preset)]
Other = Annotated[
    str, typer.Argument(metavar="OTHER", help="As CONFIG.", autocompletion=complete_preset)
]
Rope = Annotated[
    str,
    typer.Option("--rope", "--config", metavar="CONFIG", help=ROPE, autocompletion=complete_preset),
]
Layer = Annotated[int | None, typer.Option(help="Index of the layer, if layers differ.")]
LayerType = Annotated[
    str | None, typer.Option(help="Type of the layer, such as sliding_attention.")
]
Part = Annotated[
    str | None, typer.Option(help="text, vision or audio of a composite model, or indexer.")
]
Length = Annotated[
    int | None, typer.Option(help="Length that decides the frequencies of dynamic and LongRoPE.")
]
Compat = Annotated[
    str | None, typer.Option(help="Version of transformers to follow: 5.23 or 4.57.")
]
Against = Annotated[
    str | None, typer.Option(metavar="CONFIG", help="Also compare with another config.")
]
ShowAll = Annotated[
    bool, typer.Option("--all", help="Show all pairs, all layers and the source of each value.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the JSON that the route answers.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print a line for each pair.")]
Figure = Annotated[
    Path | None,
    typer.Option("-o", "--plot", metavar="FILE", help="Write a figure: .svg, .png or .pdf."),
]
Url = Annotated[
    str | None,
    typer.Option(help="Address of a service that computes; ROPE_API_KEY has the API key."),
]

TENSOR = "FILE, or FILE:NAME of a tensor in it: .safetensors, .npy or .pt; - is standard input."
Observed = Annotated[
    str | None,
    typer.Argument(
        metavar="OBSERVED",
        help="File whose tensors have the names of the options below: before, after, cos, ...",
    ),
]
Before = Annotated[str | None, typer.Option(metavar="FILE", help=f"Before the rotation. {TENSOR}")]
After = Annotated[str | None, typer.Option(metavar="FILE", help="After the rotation.")]
Cos = Annotated[str | None, typer.Option(metavar="FILE", help="Table of cosines.")]
Sin = Annotated[str | None, typer.Option(metavar="FILE", help="Table of sines.")]
InvFreq = Annotated[str | None, typer.Option(metavar="FILE", help="Frequencies.")]
Query = Annotated[str | None, typer.Option("--q", metavar="FILE", help="Before the rotation.")]
Key = Annotated[str | None, typer.Option("--k", metavar="FILE", help="Before the rotation.")]
Value = Annotated[str | None, typer.Option("--v", metavar="FILE", help="Values of attention.")]
Out = Annotated[str | None, typer.Option(metavar="FILE", help="Output of attention.")]
Lse = Annotated[str | None, typer.Option(metavar="FILE", help="Log-sum-exp of attention.")]
Positions = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Positions of the tokens, also as text: 0,1,7 or 0:2048."),
]
MaxMistakes = Annotated[
    int | None, typer.Option(help="1 or 2: how many mistakes an explanation may have.")
]
Tolerance = Annotated[
    float | None, typer.Option(help="Relative error that is no difference; default by dtype.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Parameter of attention, as window=4096 or tensor_layout=bhsd.",
    ),
]

Source = Annotated[Path, typer.Argument(metavar="IN.safetensors", help="File to read.")]
Target = Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")]
TensorNames = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor",
        metavar="NAME",
        help="Tensor to rotate, with * for any text; by default q, k, and names that end in .q "
        "or .k. All others are copied.",
    ),
]
Inverse = Annotated[bool, typer.Option("--inverse", help="Rotate back.")]
Shift = Annotated[
    int | None,
    typer.Option(
        min=-(2**53),
        max=2**53,
        metavar="N",
        help="Move keys that are rotated already by N positions.",
    ),
]

Word = Annotated[
    str | None, typer.Argument(metavar="WORD", help="Part of a name, of a family or of a source.")
]
Variant = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Name of a variant or of a scheme.")
]

Address = Annotated[
    str,
    typer.Argument(
        metavar="[URL]",
        help="Address of the service; ROPE_API_KEY has the API key.",
        show_default=True,
    ),
]
BenchAddress = Annotated[
    str | None,
    typer.Argument(
        metavar="[URL]", help="Address of the service. If it is missing, one is started for it."
    ),
]
Work = Annotated[str, typer.Option(help="rotate or attention: one decoded token of a layer.")]
Clients = Annotated[int, typer.Option(min=1, max=256, help="Connections that send at a time.")]
BenchSeconds = Annotated[
    float, typer.Option("--seconds", min=0.1, max=600, help="Length of the measurement.")
]
AsReport = Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")]
