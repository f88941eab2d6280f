"""Pre-train on a folder of photographs of any shape and size, and compare with an untrained encoder.

    python examples/photographs.py FOLDER [OUTPUT]

FOLDER holds train/<class>/<image> and test/<class>/<image>; a val/ folder is used if there is one. Prints the k-NN
accuracy of both encoders. So short a training does not beat the untrained encoder: raise data.limit and train.epochs.
"""

import sys

import maskbench


def main(folder: str, output: str) -> None:
    settings = {
        "data.dataset": folder,
        "data.img_size": [48, 64],  # rows x columns
        "data.limit": 300,  # the first 300 training images of a fixed order, all classes in proportion
        "model.patch_size": 8,
        "train.epochs": 2,
        "train.warmup_epochs": 1,
        "train.batch_size": 50,
        "probes": "knn",
        "output": output,
    }
    trained = maskbench.run({**settings, "strategy": "random:ratio=0.75"})
    untrained = maskbench.run({**settings, "strategy": "none", "objective": "random-init"})
    for name, record in (("pre-trained", trained), ("untrained", untrained)):
        print(f"{name}: k-NN accuracy {record.metrics['knn/top1/mean']:.1%}")
    print(f"what the encoder saw: {output}/runs/{trained.run_id}/masks.png")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "results/photographs")
