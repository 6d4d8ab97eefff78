"""Write the JSON Schemas of configs, from which editors complete and check YAML files.

Command: python scripts/write_config_schema.py
"""

import json
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def config_schemas() -> dict[Path, str]:
    """The schemas of configs of generate, evaluate and experiment, as texts of their files."""
    from clair_apo.clair import GenerateConfig
    from clair_apo.evaluation import EvaluateConfig
    from clair_apo.experiment import ExperimentConfig

    found = {}
    kinds = (
        ("clair", "generate", GenerateConfig),
        ("evaluation", "evaluate", EvaluateConfig),
        ("experiments", "experiment", ExperimentConfig),
    )
    for folder, command, config in kinds:
        schema = config.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = f"clair-apo {command}"
        found[CONFIGS / folder / "schema.json"] = json.dumps(schema, indent=1) + "\n"
    return found


def main() -> None:
    """Write the files."""
    for path, text in config_schemas().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
