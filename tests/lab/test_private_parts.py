"""Parts of transformers that nano and its pretraining build on, see `training/test_trl_private.py`."""

from __future__ import annotations

from ..training.test_trl_private import CACHE, TRAINER, called, check, missing_fields, overridden, unlisted

PRETRAIN, NANO = "lab/pretrain.py", "lab/nano.py"
PARTS = [
    called(PRETRAIN, CACHE, "DynamicCache", "ddp_cache_data config"),
    overridden(PRETRAIN, TRAINER, "Trainer.compute_loss", "model inputs return_outputs num_items_in_batch"),
    called(NANO, "transformers.models.siglip.image_processing_pil_siglip", "SiglipImageProcessorPil"),
]
FIELDS = (
    "max_steps per_device_train_batch_size learning_rate lr_scheduler_type warmup_steps bf16 use_cpu "
    "dataloader_pin_memory dataloader_num_workers dataloader_prefetch_factor remove_unused_columns "
    "train_sampling_strategy logging_steps save_steps save_total_limit seed report_to"
)


def test_they_are_as_we_use_them() -> None:
    assert [problem for part in PARTS if (problem := check(part))] == []
    assert missing_fields(PRETRAIN, "transformers.TrainingArguments", FIELDS) is None


def test_every_private_name_that_we_import_is_listed() -> None:
    assert unlisted(PARTS, NANO, PRETRAIN) == []
