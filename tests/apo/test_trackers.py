"""Every metric reaches a tracker that `report_to` names: TensorBoard's files, read back."""

import struct

import pytest
from datasets import Dataset
from tensorboardX.proto.event_pb2 import Event

from clair_apo.apo.trainer import APOTrainer
from tests.helpers.tiny_apo import make_model, make_rows


def scalars(folder):
    """Tag to (step, value)s, from the records of the event files: length, crc, content, crc."""
    found = {}
    for path in folder.rglob("events.out.tfevents.*"):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            place += 12 + size + 4
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_tracker_gets_every_metric_of_training_and_evaluation(
    config, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    pairs = Dataset.from_list(make_rows(8))
    trainer = APOTrainer(
        model=make_model(),
        args=config(report_to="tensorboard", eval_strategy="steps", eval_steps=2),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=tokenizer,
    )
    trainer.train()
    found = scalars(tmp_path / "events")
    history = trainer.state.log_history
    for step in (1, 2):
        log = next(entry for entry in history if entry["step"] == step and "loss" in entry)
        for name in ("rewards/chosen", "quadrants/chosen_up_rejected_down", "kl/chosen_k3"):
            assert dict(found[f"train/{name}"])[step] == pytest.approx(log[name], rel=1e-6)
    evaluated = next(entry for entry in history if "eval_loss" in entry)
    for name in (key.removeprefix("eval_") for key in evaluated if "/" in key):
        assert dict(found[f"eval/{name}"])[2] == pytest.approx(evaluated[f"eval_{name}"], rel=1e-6)
    assert "eval/saturation" in found
