"""Trainers are given the images that models are asked about, and a broken one is named."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.images import ORIENTATION, load_image
from sifthinker.records import read_examples

pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.data import grpo_dataset, load_examples, sft_dataset
from sifthinker.training.settings import make_config


def write_images(folder: Path) -> dict[str, Path]:
    """A picture of 16-bit grey, a transparent one and a photo that lies on its side."""
    files = {name: folder / name for name in ("grey16.png", "clear.png", "turned.jpg")}
    grey = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    Image.fromarray(grey).save(files["grey16.png"])
    Image.new("RGBA", (48, 32), (200, 0, 0, 60)).save(files["clear.png"])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (48, 32), (10, 90, 30)).save(files["turned.jpg"], exif=exif)
    return files


@pytest.mark.parametrize("make", [sft_dataset, grpo_dataset])
def test_training_shows_what_asking_shows(make, chains: Path, tmp_path: Path) -> None:
    (example,) = load_examples(str(chains), 1)
    files = write_images(tmp_path)
    made = make([replace(example, images=(str(file), example.images[1])) for file in files.values()])
    # As it comes, as a worker that is spawned gets it, and after a `map`, which writes it anew.
    for dataset in (made, pickle.loads(pickle.dumps(made)), made.map(lambda row: {"shown": len(row["images"])})):
        for row, file in zip(dataset, files.values(), strict=True):
            assert np.array_equal(row["images"][0], load_image(file)), file.name
    assert [row["images"][0].size for row in made] == [(48, 32), (48, 32), (32, 48)]
    # datasets' own decoding cuts all that is above 255 of 65535 off to white; the middle of the ramp is 127.
    assert abs(int(np.asarray(made[0]["images"][0])[16, 0, 0]) - 127) <= 1


@pytest.mark.parametrize(("stage", "workers"), [("sft", 0), ("sft", 1), ("grpo", 1)])
def test_a_truncated_image_ends_training_with_its_name(
    stage: str, workers: int, tiny_vlm: Path, chains: Path, tmp_path: Path
) -> None:
    data = tmp_path / "chains"
    shutil.copytree(chains, data)
    broken = data / list(read_examples(data))[1].images[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    more = "num_generations: 2, max_completion_length: 8, " if stage == "grpo" else ""
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: {tiny_vlm}\ndata: {data}\noutput: {tmp_path / 'run'}\nlimit: 2\n"
        f"training: {{{more}max_steps: 3, per_device_train_batch_size: 2, dataloader_num_workers: {workers}}}\n"
    )
    ended = CliRunner().invoke(main, ["train", stage, str(config)])
    assert ended.exit_code == 2
    (last,) = [line for line in ended.stderr.splitlines() if line.startswith("sif:")]
    assert last.startswith(f"sif: {broken}: the image is broken: ")
    assert "sif data check" in last
    assert "Traceback" not in ended.stderr


def test_a_truncated_first_image_is_named_before_training(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    from sifthinker.errors import SIFError
    from sifthinker.training.sft import sft_trainer

    data = tmp_path / "chains"
    shutil.copytree(chains, data)
    broken = data / next(read_examples(data)).images[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    config = make_config({"model": tiny_vlm, "data": data, "output": tmp_path / "run"}, "sft")
    with pytest.raises(SIFError, match=f"{broken}: the image is broken"):
        sft_trainer(config)
