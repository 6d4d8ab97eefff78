"""The logs of a training, as `trainer_state.json` has them."""

from clair_apo.report.training_run import QUADRANTS

STEPS = range(1, 7)


def log(step):
    return {
        "step": step,
        "loss": 1 - step / 100,
        "rewards/chosen": step / 10,
        "rewards/rejected": -step / 10,
        "rewards/margins": step / 5,
        "logps/chosen": -100 + step,
        "logps/rejected": -100 - step,
        "ref_logps/chosen": -100.0,
        "ref_logps/rejected": -100.0,
        "saturation": 0.0,
        **{
            f"quadrants/{name}": share
            for name, share in zip(QUADRANTS, (0.4, 0.3, 0.2, 0.1), strict=True)
        },
    }


def evaluation(step):
    return {"step": step} | {f"eval_{k}": v for k, v in log(step).items() if k != "step"}


HISTORY = [*(log(step) for step in STEPS), evaluation(6)]
