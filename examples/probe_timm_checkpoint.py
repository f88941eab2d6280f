"""Probe encoders that were trained elsewhere, and put them into one table.

    python examples/probe_timm_checkpoint.py DATASET ENCODER [ENCODER ...]

DATASET is anything that `maskbench run --dataset` takes: a folder of images, Parquet files, or "shapes". An ENCODER is
a file with a state dict of a timm VisionTransformer, or a timm name such as vit_small_patch16_224.dino, which timm
downloads. Encoders of different image sizes are in different groups, because their numbers cannot be compared.
"""

import subprocess
import sys

import maskbench

OUTPUT = "results/probed"


def main(dataset: str, encoders: list[str]) -> None:
    for encoder in encoders:
        command = [sys.executable, "-m", "maskbench", "probe", encoder, "--dataset", dataset, "--limit", "1000"]
        subprocess.run([*command, "--output", OUTPUT], check=True, stdout=subprocess.DEVNULL)
    results = maskbench.load_results(OUTPUT)
    columns = ["label", "knn/top1/mean", "linear/top1/mean"]
    for _, group in results.groupby("group"):
        print(group[columns].to_string(index=False, float_format="{:.1%}".format))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
