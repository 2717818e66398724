"""Which matrices of a decoder an adapter means: modules of Hugging Face's code → tensors of a checkpoint."""

from __future__ import annotations

from llm_serving.architectures import config_json
from llm_serving.architectures.decoder_shape import Names, read_names
from llm_serving.checkpoints import Adapter, Checkpoint
from llm_serving.errors import CheckpointError
from llm_serving.native import ops
from llm_serving.native.adapters import Adapted
from llm_serving.native.projection import tensor_of

_MODULES = {  # of a layer, by what `Names` calls their tensors
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "qkv": "self_attn.qkv_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "gate_up": "mlp.gate_up_proj",
    "down": "mlp.down_proj",
}
_HEAD = "lm_head"
# Rotary dimensions stand in pairs in Hugging Face's code, too.
_PAIRED = (
    *("cohere2", "cohere2moe", "command-r"),
    *("ernie4_5", "ernie4_5-moe", "glm4", "maincoder"),
)


def adapted(checkpoint: Checkpoint, plan: ops.ModelPlan, adapter: Adapter) -> Adapted:
    """What `adapter` does to the matrices of `plan`.

    Raises: CheckpointError, naming the module or the tensor, for one that the model does not have or that is
    of another shape than the adapter's.
    """
    if checkpoint.architecture == "falcon-h1":
        raise CheckpointError(
            f"'{checkpoint.path}' has multipliers in its weights, which an adapter's need too, and a GGUF "
            "file does not say them. Serve the directory that it was made from."
        )
    names = read_names(checkpoint)
    # Saved without a head, a model's own code has it inside of one with a head all the same.
    is_file = checkpoint.format == "gguf"
    prefix = "" if is_file else config_json.prefix_of(checkpoint, "embed_tokens.weight")
    known = _tensors(names, prefix or "model.", plan)
    layers = {name.partition("layers.")[2].partition(".")[0] for name in known if name != _HEAD}
    tensors = {}
    for module, low in adapter.modules.items():
        projection = known.get(module)
        if projection is None:
            raise CheckpointError(
                f"{adapter.path}: there are matrices for a module {module[:200]!r}. This model has "
                f"{', '.join(sorted({name.split('.')[-1] for name in known}))} that may be adapted, "
                f"in {len(layers)} layers."
            )
        shape = tensor_of(checkpoint, projection.tensor, projection.part).shape
        for tensor, size, own in (
            (low.down, low.down.shape[1], shape[1]),
            (low.up, low.up.shape[0], shape[0]),
        ):
            if size != own:
                raise CheckpointError(
                    f"{adapter.path}: tensor {tensor.name[:200]!r} has shape {tensor.shape}, and the model's "
                    f"'{projection.tensor}' {shape}: it was made for another model."
                )
        tensors[projection.tensor] = low
    in_pairs = not is_file or checkpoint.architecture in _PAIRED
    return Adapted(tensors, in_pairs, adapter.digest)


def _tensors(names: Names, prefix: str, plan: ops.ModelPlan) -> dict[str, ops.Projection]:
    """By module, those that a plan multiplies with; none of experts, and none of a single head."""
    matrices = [op for op in plan.operations if isinstance(op, ops.Linear) and not op.apart]
    linear = [p for op in matrices for p in op.projections]
    projections = {p.tensor: p for p in linear}
    # GGUF files call both the same: ups, and gates with them in one matrix.
    is_fused = f"{names.gate.format(i=0)}.weight" not in projections
    not_there = "up" if is_fused else "gate_up"
    modules = {
        f"{prefix}layers.{i}.{module}": f"{getattr(names, part).format(i=i)}.weight"
        for i in range(len(linear))
        for part, module in _MODULES.items()
        if part != not_there
    }
    known = {module: projections[tensor] for module, tensor in modules.items() if tensor in projections}
    return {**known, _HEAD: linear[-1]}
