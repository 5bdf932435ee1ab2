"""Words that depend on the facts."""

from kubetune.api.runspec import RunSpec


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what is counted: 1 example, 1,200 examples."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def beginning(spec: RunSpec) -> str:
    """What a run started from, and so what its first measurements are of."""
    if spec.model.config is not None:
        return "the model with random weights"
    base = "the base model in 4 bits" if spec.method == "qlora" else "the base model"
    if spec.method == "prompt-tuning":
        if spec.adapter:
            return f"{base} with the virtual tokens of the former adapter"
        text = spec.prompt_tuning.init_text if spec.prompt_tuning else ""
        rows = "promptTuning.initText" if text else "random common tokens"
        return f"{base} with virtual tokens as they begin, the embeddings of {rows}"
    parts = []
    if spec.adapter:
        parts.append("the former adapter" + (" merged into it" if spec.method == "full" else ""))
    if spec.stage in ("classification", "reward"):
        parts.append("a head, untrained unless the base had one")
    return " and ".join([f"{base} with {parts[0]}", *parts[1:]]) if parts else base
