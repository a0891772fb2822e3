"""What a notebook's parameters ask of a machine: parameters, bytes on the GPU, models left on the disk. From configurations alone.

No weights are read: a model is built from its configuration on torch's meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tacit.models.memory import BYTES, PROMPT, Phase, Size, kv_cache_bytes, training_bytes

ANNOTATOR = "alpaca_eval:"  # a judge that is an annotator of that package, and no model to load
Values = Mapping[str, Any]


def find_models(values: Values) -> list[tuple[str, str]]:
    """The models that a notebook's parameters name: (parameter, folder or hub id with @revision); no judge of another kind.

    Empty ones are left out, as are the encoder ``tfidf`` and finding 6's measurements (.json), which are no models.
    """
    found = []
    for role in ("base", "expert", "amateur", "sibling", "student", "teacher", "judge", "encoder"):
        name = values.get(role)
        if (
            name
            and not (role == "encoder" and name == "tfidf")
            and not (role == "judge" and name.startswith(ANNOTATOR))
        ):
            pinned = role == "base" and values.get("revision") not in (None, "main")
            found.append((role, f"{name}@{values['revision']}" if pinned else name))
    found += [("students", name) for name in values.get("students", [])]
    return found + [("bases", name) for name in values.get("bases", {}) if not name.endswith(".json")]


def tuned_models(values: Values) -> set[tuple]:
    """The models that a notebook tunes and the cache keeps, one key each: (model, arm, seed, examples, dtype).

    Notebooks share models by equal keys. Arms are the notebooks' (findings 1 to 5 and 11, ``epochs`` by arm; 7; 8; 9; 10); a search
    over epochs or cells adds one for each choice. A close guess for the disk, not the cache's own keys.
    """
    models = dict(reversed(find_models(values)))
    students, seeds = values.get("students", []), values.get("seeds", [])
    arms: list[tuple[str, str, list]] = []  # model, arm, seeds
    if isinstance(values.get("epochs"), dict):
        for arm, choices in values["epochs"].items() if not values.get("expert") else ():
            tried = [f"selection, {n} epochs" for n in choices] if len(choices) > 1 else []
            arms.append((models["base"], arm, [*seeds, *tried]))
    elif "alphas" in values:
        core = ["direct", "mask only", "CoDIT", "gold"]
        more = ["low temperature", "greedy", "end exempt", "length-matched", *map(str, values["tested"])]
        n_tried = 0 if values["chosen"] else 1 + len(values["alphas"]) * (1 + len(values["betas"]))
        arms = [(student, arm, seeds) for student in students for arm in core]
        arms += [(students[0], arm, seeds) for arm in more] + [(students[0], "selection", list(range(n_tried)))]
    elif "n_full" in values:
        public = [name for name in values["sources"] if name.startswith("public ")] or ["FAQ", "noisy"]
        arms = [(student, arm, seeds) for student in students for arm in ("direct", "CoDIT", "gold", *public)]
        arms += [(students[0], f"{name}, full size", seeds) for name in public]
    elif "vector_dtype" in values:
        own = ("direct", "mask only", "CoDIT", "right responses", "plain tasks")
        arms = [(values["amateur"], f"vector: {arm}", seeds) for arm in own]
        arms += [(values["student"], f"vector: {arm}", seeds) for arm in ("direct", "CoDIT")]
        arms += [(values["sibling"], "vector: CoDIT", seeds)] if values["sibling"] else []
    elif "n_taught" in values:
        arms = [(student, arm, seeds) for student in students for arm in ("direct", "mask only", "CoDIT")]
        arms += [(students[0], arm, seeds) for arm in ("gold, held", "gold, new")]
    elif "base" in models:
        arms = [(models["base"], "tuned", seeds)]
    n = values.get("n_train", values.get("n_instructions"))
    dtype = values.get("student_dtype", values.get("dtype", "float32"))
    return {(model, arm, seed, n, dtype) for model, arm, of in arms for seed in of}


def memory_needed(values: Values, sizes: Mapping[str, Size]) -> list[Phase]:
    """The phases of a notebook on the GPU, by its parameters; ``sizes`` by the names of ``find_models``, those it lacks are left out.

    Decoding takes the weights and, for each row, keys and values of ``max_new_tokens`` and a prompt of 512; batches are halved until
    they fit, so that one row is what must. Finding 9 holds the pair and the vector (or a model moved along it), without the activations of its derivatives; finding 11 keeps its
    base model beside the one that is tuned. A judge is in bfloat16, an encoder in float32.
    """
    dtype, tokens = values.get("dtype", "float32"), values.get("max_new_tokens", 0) + PROMPT
    named = find_models(values)
    role = {what: name for what, name in named if name in sizes}

    def decoding(what: str, names: list[str], *, dtype: str, rows: bool = True) -> list[Phase]:
        if not names or any(name not in sizes for name in names):
            return []
        fixed = sum(sizes[name].parameters for name in names) * BYTES[dtype]
        row = sum(kv_cache_bytes(sizes[name].config, rows=1, tokens=tokens, dtype=dtype) for name in names)
        return [Phase(what, fixed, row * rows)]

    phases = []
    if "base" in role:
        pair = [role["base"]] * (1 + ("text_tokens" in values))  # finding 11 has the tuned model beside it
        together = [role["expert"], role["base"]] if "expert" in role else pair
        phases += decoding("decoding", together, dtype=dtype)
    if {"expert", "amateur"} <= set(role):
        phases += decoding("decoding the pair", [role["expert"], role["amateur"]], dtype=dtype)
        if "vector_dtype" in values:
            whole = 3 * sizes[role["amateur"]].parameters * BYTES[values["vector_dtype"]]
            phases.append(Phase("the pair and the vector between it", whole))
    lengths = {name: values[name] for name in ("micro_batch", "max_length") if name in values}
    for name, of_training in sorted({(key[0], key[-1]) for key in tuned_models(values)}) if len(lengths) == 2 else ():
        if name in sizes:
            kept = sizes[name].parameters * BYTES[dtype] if "text_tokens" in values else 0
            needed = training_bytes(sizes[name], dtype=of_training, **lengths)
            phases.append(Phase(f"tuning {name.partition('@')[0]}", needed + kept))
    phases += decoding("judging", [role["judge"]] if "judge" in role else [], dtype="bfloat16", rows=False)
    if "encoder" in role:
        phases.append(Phase("encoding", sizes[role["encoder"]].parameters * BYTES["float32"]))
    return phases
