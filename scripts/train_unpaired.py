"""Train on pairs taken apart, with TRL's `KTOTrainer`: KTO, or APO-zero without a partner.

    python scripts/train_unpaired.py --config configs/unpaired/kto.yaml
    python scripts/train_unpaired.py --config configs/unpaired/apo_zero_unpaired.yaml

The YAML holds the keys of TRL's `KTOConfig` and `ModelConfig` beside `dataset_name` or `datasets`,
`held_out` and `max_pairs`; every key is an option too. Reads the same pairs as `clair-apo train`,
and holds out the same ones.
"""

import sys

from clair_apo.apo.process_exit import end_process
from clair_apo.errors import reported_errors


def main() -> None:
    """Parse, take the pairs apart, train, write; a user's mistake is one line and status 2."""
    with reported_errors():
        from datasets import Dataset
        from trl import KTOConfig, KTOTrainer, ModelConfig, get_peft_config

        from clair_apo.apo.arguments import PairArguments, parse_into
        from clair_apo.apo.train import resume_point
        from clair_apo.apo.unpaired import unpaired_rows
        from clair_apo.models import find_model

        kinds = (PairArguments, KTOConfig, ModelConfig)
        script, args, model = parse_into(sys.argv[1:], kinds)
        resume_from = resume_point(args)
        split = script.load_split()
        args.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **(args.model_init_kwargs or {}),
        }
        trainer = KTOTrainer(
            model=find_model(model.model_name_or_path).location,
            args=args,
            train_dataset=Dataset.from_list(unpaired_rows(split.train)),
            eval_dataset=Dataset.from_list(unpaired_rows(split.held_out))
            if split.held_out
            else None,
            peft_config=get_peft_config(model),
        )
        trainer.train(resume_from_checkpoint=resume_from)
        trainer.save_model()
        if split.held_out:
            print({k: round(v, 4) for k, v in trainer.evaluate().items() if "rewards" in k})


if __name__ == "__main__":
    main()
    end_process()
