"""Every network on a GPU at its published size: float32 beside bf16, eager beside compiled, memory, share of the floor.

    python benchmarks/gpu.py            # some minutes on one GPU
    python benchmarks/gpu.py --small    # small networks, on the processor too, for a test of this script

A sample is what a step takes of one person: two views of a series, two augmented copies of a volume, one slice. The
floors are seconds per sample of an H200 (790 TFLOP/s of bf16, 4.3 TB/s) from operations or, for volumes, from the bytes
that the layers read and write; on another card the share is against the same floor. Before anything else, convolutions
of volumes in bf16 are compared with float32, because some builds compute them slowly or wrongly. Prints a table for
docs/performance.md; the last line is JSON.
"""

from __future__ import annotations

import json
import time

import functional
import multiscale_vit
import semantoks
import torch
import yaware
from tools.timing import Figures, arguments, autocast, report, seconds

FAMILIES = {"semantoks": semantoks, "functional": functional, "yaware": yaware, "multiscale_vit": multiscale_vit}


def convolutions(device: torch.device, repeats: int) -> Figures:
    """Return how far and how much slower a 3-D convolution in bf16 is than in float32."""
    layer = torch.nn.Conv3d(64, 32, 3, padding=1, bias=False).to(device, memory_format=torch.channels_last_3d)
    size = 30 if device.type == "cuda" else 8
    x = torch.randn(8, 64, size, size, size, device=device).contiguous(memory_format=torch.channels_last_3d)

    def run(precision: torch.dtype) -> torch.Tensor:
        with torch.no_grad(), autocast(device, precision):
            return layer(x).float()

    exact, rough = run(torch.float32), run(torch.bfloat16)
    slow, quick = (seconds(lambda p=p: run(p), repeats) for p in (torch.float32, torch.bfloat16))
    return {
        "bf16_relative_error": ((exact - rough).norm() / exact.norm()).item(),
        "bf16_over_float32_time": quick / slow,
    }


def table(found: dict[str, Figures]) -> str:
    """Return the rates as a table in Markdown."""
    lines = ["| | way | samples/s | memory, GB | share of the floor |", "|---|---|---|---|---|"]
    for what, figures in found.items():
        for key in figures:
            if key.endswith("_samples_per_s"):
                way = key.removesuffix("_samples_per_s")
                memory, share = figures.get(f"{way}_memory_gb"), figures.get(f"{way}_floor_share")
                cells = [what, way.replace("_", " "), f"{figures[key]:,.0f}"]
                cells += ["" if memory is None else f"{memory:.1f}", "" if share is None else f"{share:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(f"{card}, torch {torch.__version__}, {time.strftime('%d %B %Y')}", flush=True)
    found: dict[str, Figures] = {"convolution": convolutions(device, chosen.repeats)}
    report(found["convolution"])
    for name in chosen.families:
        for what, figures in FAMILIES[name].on_device(chosen.small, chosen.repeats, device):
            found[f"{name}, {what}"] = figures
            print(f"-- {name}, {what}")
            report(figures)
    print(table(found))
    print(json.dumps({f"{what}: {key}": value for what, figures in found.items() for key, value in figures.items()}))


if __name__ == "__main__":
    main()
