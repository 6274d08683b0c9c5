"""The final stage of the project's Dockerfile, read instead of built: there is no builder here, and the stage is a copy.

Understood are FROM scratch, COPY of one file, USER, ENTRYPOINT, CMD, WORKDIR, ENV and LABEL. Anything else is an error, so
that the image tested cannot drift from the image shipped without notice.
"""

import json
import shlex
from pathlib import Path, PurePosixPath

from onenode.layout import E2E

DOCKERFILE = E2E.parent / "Dockerfile"

# Where there is no Dockerfile yet.
DEFAULT = """
FROM scratch
COPY proa /proa
USER 65532
ENTRYPOINT ["/proa"]
"""


def _instructions(text):
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    for line in lines:
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word.upper(), rest.strip()


def final_stage(binary):
    """The files and configuration of the image, with `binary` in the place of the stage's one COPY."""
    text = DOCKERFILE.read_text() if DOCKERFILE.exists() else DEFAULT
    stage = []
    for word, rest in _instructions(text):
        if word == "FROM":
            stage = []
        stage.append((word, rest))
    files, config = {}, {}
    for word, rest in stage:
        match word:
            case "FROM" if rest.split()[0] == "scratch":
                continue
            case "COPY" if not files:
                source, target = [part for part in rest.split() if not part.startswith("--")]
                if target.endswith("/"):
                    target += PurePosixPath(source).name
                files[target] = Path(binary)
            case "USER":
                config["User"] = rest
            case "ENTRYPOINT" | "CMD" if rest.startswith("["):
                config[word.capitalize()] = json.loads(rest)
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "ENV":
                config.setdefault("Env", []).extend(shlex.split(rest))
            case "LABEL":
                config.setdefault("Labels", {}).update(pair.split("=", 1) for pair in shlex.split(rest))
            case _:
                raise SystemExit(f"error: Dockerfile: the final stage has `{word} {rest}`; teach images/dockerfile.py")
    return files, config
