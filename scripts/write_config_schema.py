"""Write the JSON Schema of generation configs, from which editors complete and check YAML files.

Command: python scripts/write_config_schema.py
"""

import json
from pathlib import Path

SCHEMA = Path(__file__).parents[1] / "configs" / "clair" / "schema.json"


def config_schema() -> str:
    """The schema of `GenerateConfig`, as the text of a file."""
    from clair_apo.clair import GenerateConfig

    schema = GenerateConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "clair-apo generate"
    return json.dumps(schema, indent=1) + "\n"


def main() -> None:
    """Write the file."""
    SCHEMA.write_text(config_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
